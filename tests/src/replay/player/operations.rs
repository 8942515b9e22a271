//! Changes of groups that a player makes: it creates its groups, and removes and adds members
//! when the conversation has come to the place that the plan says.

use anyhow::Context as _;
use bytes::Bytes;
use chat_client::{
    Client, RequestError,
    frame::{self, Body},
    ids::{ClientId, GroupId},
};

use super::Player;
use crate::replay::{
    ledger::{Operation, Record},
    plan::{IdKind, Place},
};

impl Player {
    /// What the owner does when its thread has come to `next`.
    pub(super) fn churn_at(&mut self, thread: u32, next: usize) {
        let Some(numbers) = self.churn.get(&thread).cloned() else {
            return;
        };
        for number in numbers {
            let churn = self.script.plan.churn[number as usize];
            if next >= churn.remove_at as usize {
                self.ask(Operation::Remove(number));
            }
            let removed = self
                .ledger
                .operations
                .contains_key(&Operation::Remove(number));
            if next >= churn.add_at as usize && removed {
                self.ask(Operation::Add(number));
            }
        }
    }

    /// Asks the server for an operation, once, until it has an answer.
    pub(super) fn ask(&mut self, operation: Operation) {
        if self.ledger.operations.contains_key(&operation) || !self.asked.insert(operation) {
            return;
        }
        let body = self.request(operation);
        let client = self.client.clone();
        self.operations.push(Box::pin(
            async move { (operation, insist(&client, body).await) },
        ));
    }

    fn request(&self, operation: Operation) -> Body {
        let plan = &self.script.plan;
        let id = |kind, number| -> Bytes {
            let id: ClientId = self.script.ids.id(kind, number, 0);
            Bytes::copy_from_slice(&id.0)
        };
        let group = |place| -> GroupId {
            self.script
                .ids
                .group(plan, place)
                .expect("only groups are changed")
        };
        match operation {
            Operation::Create(place) => {
                let Place::Group { members, .. } = &plan.places[place as usize] else {
                    unreachable!("only groups are created");
                };
                let name = |member: &u32| plan.people[*member as usize].clone();
                Body::GroupCreate(frame::GroupCreate {
                    op_id: id(IdKind::Create, place),
                    name: format!("place {place}"),
                    members: members[1..].iter().map(name).collect(),
                })
            }
            Operation::Remove(number) => {
                let churn = plan.churn[number as usize];
                Body::GroupRemove(frame::GroupRemove {
                    op_id: id(IdKind::Remove, number),
                    group: group(churn.place).0,
                    members: vec![plan.users[churn.member as usize].0],
                })
            }
            Operation::Add(number) => {
                let churn = plan.churn[number as usize];
                Body::GroupAdd(frame::GroupAdd {
                    op_id: id(IdKind::Add, number),
                    group: group(churn.place).0,
                    members: vec![plan.people[churn.member as usize].clone()],
                })
            }
        }
    }

    pub(super) async fn operated(
        &mut self,
        operation: Operation,
        result: Result<frame::GroupState, RequestError>,
    ) -> anyhow::Result<()> {
        let state = result.with_context(|| format!("{operation:?} by person {}", self.person))?;
        let record = Record::Operation {
            operation,
            group_seq: state.group_seq,
        };
        self.note(&[record])?;
        self.script.stage.answered(record);
        self.script.stage.operated(1);
        match operation {
            Operation::Create(place) => self.start(place).await,
            Operation::Remove(number) => {
                // The addition may have waited for this.
                let place = self.script.plan.churn[number as usize].place;
                let threads: Vec<u32> = self
                    .churn
                    .keys()
                    .filter(|thread| self.script.plan.threads[**thread as usize].place == place)
                    .copied()
                    .collect();
                for thread in threads {
                    let next = self
                        .threads
                        .get(&thread)
                        .map_or(0, |position| position.next);
                    self.churn_at(thread, next);
                }
                Ok(())
            }
            Operation::Add(_) => Ok(()),
        }
    }
}

/// Repeats an operation, always with the same id, until the server has a final answer. What
/// the server refuses for now the library asks again by itself.
async fn insist(client: &Client, body: Body) -> Result<frame::GroupState, RequestError> {
    loop {
        match client.request(body.clone()).await {
            Ok(Body::GroupState(state)) => return Ok(state),
            Ok(_) => return Err(RequestError::UnexpectedAnswer),
            Err(RequestError::TimedOut { .. }) => {}
            Err(error) => return Err(error),
        }
    }
}
