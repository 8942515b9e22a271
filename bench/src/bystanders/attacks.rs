//! What attackers do: ordinary sessions that only use what the protocol allows, as fast as
//! it goes. One that is refused goes on; one whose session ends connects again.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use chat_wire::{
    error::Code,
    frame::{
        Body, ConversationsGet, Credit, Frame, GroupAdd, GroupCreate, GroupRemove, Lane,
        PresenceSubscribe, Typing, target,
    },
    ids::UserId,
};

use crate::{
    link::{Link, Target, Transport},
    message,
};

/// Members and new names of the groups.
const MEMBERS: usize = 1_000;
/// Requests that an attacker has in flight.
const IN_FLIGHT: u32 = 64;
/// Of those that are long frames.
const LONG_IN_FLIGHT: u32 = 8;
const LONG_BYTES: usize = 64_000;

type Running = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// One attack.
pub(crate) struct Attack {
    /// For `--only`.
    pub(crate) name: &'static str,
    /// In bars.
    pub(crate) what: &'static str,
    /// Attackers, all of one user.
    pub(crate) sessions: usize,
    pub(crate) run: fn(Target, usize, Arc<AtomicBool>, Arc<Told>) -> Running,
}

/// What attackers were told.
#[derive(Default)]
pub(crate) struct Told {
    ready: AtomicUsize,
    failed: AtomicBool,
    done: AtomicU64,
    refused: AtomicU64,
}

impl Told {
    /// Waits until so many attackers are prepared.
    ///
    /// # Errors
    /// If they do not get there.
    pub(crate) async fn ready(&self, sessions: usize) -> Result<()> {
        for _ in 0..60_000 {
            if self.failed.load(Ordering::Relaxed) {
                bail!("the attack could not be prepared");
            }
            if self.ready.load(Ordering::Relaxed) >= sessions {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        bail!("the attack was not prepared within a minute")
    }

    /// Requests that were done, and refused.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (count(&self.done), count(&self.refused))
    }
}

pub(crate) const ATTACKS: &[Attack] = &[
    Attack {
        name: "create",
        what: "GROUP_CREATE of 1,000 new names, one session",
        sessions: 1,
        run: |target, number, stop, told| {
            let mut made = 0;
            let next = move |req, _group| {
                made += 1;
                creation(req, &format!("new-{number}-{made}"))
            };
            Box::pin(requests(
                target,
                number,
                LONG_IN_FLIGHT,
                Before::Nothing,
                (stop, told),
                next,
            ))
        },
    },
    Attack {
        name: "conversations",
        what: "CONVERSATIONS of 200, four sessions",
        sessions: 4,
        run: |target, number, stop, told| {
            let next = |req, _| {
                let get = ConversationsGet {
                    limit: 200,
                    ..ConversationsGet::default()
                };
                Frame::new(req, Body::Conversations(get))
            };
            Box::pin(requests(
                target,
                number,
                IN_FLIGHT,
                Before::Conversations,
                (stop, told),
                next,
            ))
        },
    },
    Attack {
        name: "presence",
        what: "PRESENCE_SUBSCRIBE of 1,000, one session",
        sessions: 1,
        run: |target, number, stop, told| {
            let mut turn = 0;
            let next = move |req, _| {
                turn = (turn + 1) % 7;
                let user = |of| UserId::of("default", &format!("watched-{turn}-{of}")).0;
                let users = (0..MEMBERS).map(user).collect();
                Frame::new(req, Body::PresenceSubscribe(PresenceSubscribe { users }))
            };
            Box::pin(requests(
                target,
                number,
                IN_FLIGHT,
                Before::Nothing,
                (stop, told),
                next,
            ))
        },
    },
    Attack {
        name: "group-sends",
        what: "SEND of 64 KB to 1,001 members, one session",
        sessions: 1,
        run: |target, number, stop, told| {
            let next =
                |req, group| message::send(req, &target::To::Group(group), LONG_BYTES, stamp());
            Box::pin(requests(
                target,
                number,
                LONG_IN_FLIGHT,
                Before::Group(MEMBERS),
                (stop, told),
                next,
            ))
        },
    },
    Attack {
        name: "members",
        what: "GROUP_REMOVE and GROUP_ADD of 1,000, one session",
        sessions: 1,
        run: |target, number, stop, told| {
            let mut turn = 0;
            let next = move |req, group| {
                turn += 1;
                let op_id = op_id();
                Frame::new(
                    req,
                    if turn % 2 == 1 {
                        let members =
                            member_names(number).map(|name| UserId::of("default", &name).0);
                        let members = members.collect();
                        Body::GroupRemove(GroupRemove {
                            op_id,
                            group,
                            members,
                        })
                    } else {
                        let members = member_names(number).collect();
                        Body::GroupAdd(GroupAdd {
                            op_id,
                            group,
                            members,
                        })
                    },
                )
            };
            Box::pin(requests(
                target,
                number,
                LONG_IN_FLIGHT,
                Before::Group(MEMBERS),
                (stop, told),
                next,
            ))
        },
    },
    Attack {
        name: "reconnects",
        what: "200 SENDs, then the same device again, one session",
        sessions: 1,
        run: |target, number, stop, told| Box::pin(reconnects(target, number, stop, told)),
    },
    Attack {
        name: "strangers",
        what: "SEND of 64 KB to names that nobody used, one session",
        sessions: 1,
        run: |target, number, stop, told| {
            let mut named = 0;
            let next = move |req, _| {
                named += 1;
                let to = target::To::Name(format!("stranger-{number}-{named}"));
                message::send(req, &to, LONG_BYTES, stamp())
            };
            Box::pin(requests(
                target,
                number,
                LONG_IN_FLIGHT,
                Before::Nothing,
                (stop, told),
                next,
            ))
        },
    },
    Attack {
        name: "typing",
        what: "TYPING to 40 members, 200 at once, one session",
        sessions: 1,
        run: |target, number, stop, told| Box::pin(typing(target, number, stop, told)),
    },
];

/// What an attacker needs first.
#[derive(Clone, Copy)]
enum Before {
    Nothing,
    /// A group of so many others.
    Group(usize),
    /// So many conversations that a page is full.
    Conversations,
}

/// Opens a session of the attacker: one user, a device for each.
async fn open(target: &Target, number: usize) -> Result<Link> {
    let device = number as u64 + 1;
    let (link, _) = Link::open(target, Transport::WebSocket, "mallory", device, None).await?;
    Ok(link)
}

/// Sends requests, so many in flight, for ever.
async fn requests(
    target: Target,
    number: usize,
    in_flight: u32,
    before: Before,
    (stop, told): (Arc<AtomicBool>, Arc<Told>),
    mut next: impl FnMut(u32, u64) -> Frame + Send,
) -> Result<()> {
    let prepared = prepare(&target, number, before).await;
    told.failed.fetch_or(prepared.is_err(), Ordering::Relaxed);
    let (mut link, group) = prepared?;
    told.ready.fetch_add(1, Ordering::Relaxed);
    let mut req = 1_000;
    while !stop.load(Ordering::Relaxed) {
        if hammer(&mut link, in_flight, &told, || {
            req += 1;
            next(req, group)
        })
        .await
        .is_err()
        {
            // It was thrown out.
            told.refused.fetch_add(1, Ordering::Relaxed);
            link = loop {
                match open(&target, number).await {
                    Ok(link) => break link,
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            };
        }
    }
    Ok(())
}

async fn hammer(
    link: &mut Link,
    in_flight: u32,
    told: &Told,
    mut next: impl FnMut() -> Frame,
) -> Result<()> {
    let mut waiting = 0;
    loop {
        while waiting < in_flight {
            link.queue(&next());
            waiting += 1;
        }
        link.flush().await?;
        match answered(link, told).await? {
            Some(fast) => {
                waiting -= 1;
                if fast {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
            None => {}
        }
    }
}

/// The next frame: whether it answers a request, and if so whether that was too fast.
async fn answered(link: &mut Link, told: &Told) -> Result<Option<bool>> {
    let frame = link.frame().await?;
    let frame = <Frame as prost::Message>::decode(frame)?;
    let answers = frame.req != 0;
    match frame.body {
        Some(Body::Error(error)) if answers => {
            told.refused.fetch_add(1, Ordering::Relaxed);
            let fast = [Code::RateLimited, Code::Overloaded].map(|code| u32::from(code.number()));
            return Ok(Some(fast.contains(&error.code)));
        }
        Some(Body::Event(batch)) => {
            let n = u32::try_from(batch.events.len())?;
            link.queue(
                &Body::Credit(Credit {
                    lane: Lane::Events.into(),
                    n,
                })
                .into(),
            );
        }
        Some(Body::ConversationsPage(_)) => {
            link.queue(
                &Body::Credit(Credit {
                    lane: Lane::Bulk.into(),
                    n: 1,
                })
                .into(),
            );
        }
        _ => {}
    }
    if answers {
        told.done.fetch_add(1, Ordering::Relaxed);
    }
    Ok(answers.then_some(false))
}

async fn prepare(target: &Target, number: usize, before: Before) -> Result<(Link, u64)> {
    let mut link = open(target, number).await?;
    let group = match before {
        Before::Nothing => 0,
        Before::Group(members) => {
            let members: Vec<_> = member_names(number).take(members).collect();
            group_of(&mut link, members).await?
        }
        Before::Conversations => {
            for other in 0..200 {
                let (mut peer, _) = Link::open(
                    target,
                    Transport::WebSocket,
                    &format!("peer-{number}-{other}"),
                    1,
                    None,
                )
                .await?;
                let text = message::send(1, &target::To::Name("mallory".into()), 300, stamp());
                peer.queue(&text);
                peer.flush().await?;
                peer.answer(1).await?;
            }
            0
        }
    };
    Ok((link, group))
}

async fn group_of(link: &mut Link, members: Vec<String>) -> Result<u64> {
    let create = GroupCreate {
        op_id: op_id(),
        name: "bench".into(),
        members,
    };
    link.queue(&Frame::new(1, Body::GroupCreate(create)));
    link.flush().await?;
    let answer = tokio::time::timeout(Duration::from_secs(30), link.answer(1)).await;
    match answer.context("no group in time")??.body {
        Some(Body::GroupState(state)) => Ok(state.group),
        other => bail!("no group: {other:?}"),
    }
}

fn creation(req: u32, prefix: &str) -> Frame {
    let create = GroupCreate {
        op_id: op_id(),
        name: "bench".into(),
        // 100 bytes each, as long as a frame allows so many to be.
        members: (0..MEMBERS)
            .map(|member| format!("{prefix}-{member}-{}", "x".repeat(80)))
            .collect(),
    };
    Frame::new(req, Body::GroupCreate(create))
}

/// A session that sends what it may send at once, and comes again.
async fn reconnects(
    target: Target,
    number: usize,
    stop: Arc<AtomicBool>,
    told: Arc<Told>,
) -> Result<()> {
    told.ready.fetch_add(1, Ordering::Relaxed);
    while !stop.load(Ordering::Relaxed) {
        let Ok(mut link) = open(&target, number).await else {
            told.refused.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        };
        for req in 1..=200 {
            let to = target::To::Name("mallory-2".into());
            link.queue(&message::send(req, &to, 100, stamp()));
        }
        link.flush().await?;
        let mut waiting = 200;
        while waiting > 0 {
            match answered(&mut link, &told).await {
                Ok(Some(_)) => waiting -= 1,
                Ok(None) => {}
                Err(_) => break,
            }
        }
    }
    Ok(())
}

/// Typing has no answers: 200 at once, and the next when a member has had the last.
async fn typing(
    target: Target,
    number: usize,
    stop: Arc<AtomicBool>,
    told: Arc<Told>,
) -> Result<()> {
    let prepared = typists(&target, number, &told).await;
    told.failed.fetch_or(prepared.is_err(), Ordering::Relaxed);
    let (mut link, group) = prepared?;
    told.ready.fetch_add(1, Ordering::Relaxed);
    while !stop.load(Ordering::Relaxed) {
        for turn in 0..200 {
            let typing = Typing {
                conversation: group,
                on: turn % 2 == 0,
                user: 0,
            };
            link.queue(&Body::Typing(typing).into());
        }
        link.queue(&Frame::new(0, Body::Ping(chat_wire::frame::Ping {})));
        link.flush().await?;
        // The answer says that the frames were read.
        while !matches!(
            <Frame as prost::Message>::decode(link.frame().await?)?.body,
            Some(Body::Pong(_))
        ) {}
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

async fn typists(target: &Target, number: usize, told: &Arc<Told>) -> Result<(Link, u64)> {
    let mut link = open(target, number).await?;
    for member in member_names(number).take(40) {
        let (mut member, _) = Link::open(target, Transport::WebSocket, &member, 1, None).await?;
        let told = Arc::clone(told);
        tokio::spawn(async move {
            while let Ok(frame) = member.frame().await {
                if let Ok(Frame {
                    body: Some(Body::Typing(_)),
                    ..
                }) = <Frame as prost::Message>::decode(frame)
                {
                    told.done.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
    }
    let group = group_of(&mut link, member_names(number).take(40).collect()).await?;
    Ok((link, group))
}

fn member_names(number: usize) -> impl Iterator<Item = String> {
    (0..MEMBERS).map(move |member| format!("member-{number}-{member}"))
}

fn op_id() -> Bytes {
    Bytes::copy_from_slice(uuid::Uuid::now_v7().as_bytes())
}

/// Another one each time: it makes the client id unique.
fn stamp() -> u64 {
    static STAMPS: AtomicU64 = AtomicU64::new(0);
    STAMPS.fetch_add(1, Ordering::Relaxed)
}
