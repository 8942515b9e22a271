//! What the application asks: pages of history, conversations and members, changes of
//! groups, presence. Each is repeated by the client's task, over reconnects, until it is answered or
//! [`crate::Config::request_timeout`] is over.

use std::future::Future;

use bytes::Bytes;
use chat_wire::{
    frame::{self, Body, Role},
    ids::{ConversationId, GroupId, UserId},
};
use tokio::sync::oneshot;

use super::Command;
use crate::{Client, RequestError};

/// From where a page of history is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HistoryFrom {
    /// Newest first, from below this message; 0 from the newest.
    Before(i64),
    /// Oldest first, from above this message; 0 from the oldest.
    After(i64),
}

impl Client {
    /// Any request by its frame, for what has no method of its own: a change of a group with
    /// an `op_id` that the application keeps, for instance, which is safe to repeat.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn request(&self, body: Body) -> Result<Body, RequestError> {
        let (answer, answered) = oneshot::channel();
        let wait = async {
            self.handle
                .commands
                .send(Command::Request {
                    body: Box::new(body),
                    answer,
                })
                .await
                .map_err(|_| RequestError::Closed)?;
            answered.await.unwrap_or(Err(RequestError::Closed))
        };
        self.within_time(wait).await
    }

    async fn within_time(
        &self,
        wait: impl Future<Output = Result<Body, RequestError>>,
    ) -> Result<Body, RequestError> {
        let limit = self.handle.request_timeout;
        tokio::time::timeout(limit, wait)
            .await
            .unwrap_or(Err(RequestError::TimedOut {
                after_ms: u64::try_from(limit.as_millis()).unwrap_or(u64::MAX),
            }))
    }

    /// A page of a conversation's events; `limit` 0 for the server's page size.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn history(
        &self,
        conversation: ConversationId,
        from: HistoryFrom,
        limit: u32,
    ) -> Result<frame::HistoryPage, RequestError> {
        let from = match from {
            HistoryFrom::Before(msg_id) => frame::history_get::From::Before(msg_id),
            HistoryFrom::After(msg_id) => frame::history_get::From::After(msg_id),
        };
        let get = frame::HistoryGet {
            conversation: conversation.0,
            from: Some(from),
            limit,
        };
        match self.request(Body::History(get)).await? {
            Body::HistoryPage(page) => Ok(page),
            _ => Err(RequestError::UnexpectedAnswer),
        }
    }

    /// A page of conversations, newest first; an empty cursor for the first.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn conversations(
        &self,
        cursor: Bytes,
        limit: u32,
    ) -> Result<frame::ConversationsPage, RequestError> {
        let get = frame::ConversationsGet { cursor, limit };
        match self.request(Body::Conversations(get)).await? {
            Body::ConversationsPage(page) => Ok(page),
            _ => Err(RequestError::UnexpectedAnswer),
        }
    }

    fn new_op(&self) -> Bytes {
        Bytes::copy_from_slice(&self.new_id().0)
    }

    async fn group_request(&self, body: Body) -> Result<frame::GroupState, RequestError> {
        match self.request(body).await? {
            Body::GroupState(state) => Ok(state),
            _ => Err(RequestError::UnexpectedAnswer),
        }
    }

    /// Creates a group; the creator is its owner and need not be named.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn group_create(
        &self,
        name: impl Into<String>,
        members: Vec<String>,
    ) -> Result<frame::GroupState, RequestError> {
        self.group_request(Body::GroupCreate(frame::GroupCreate {
            op_id: self.new_op(),
            name: name.into(),
            members,
        }))
        .await
    }

    /// Renames a group.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn group_rename(
        &self,
        group: GroupId,
        name: impl Into<String>,
    ) -> Result<frame::GroupState, RequestError> {
        self.group_request(Body::GroupUpdate(frame::GroupUpdate {
            op_id: self.new_op(),
            group: group.0,
            name: name.into(),
        }))
        .await
    }

    /// Adds people by name.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn group_add(
        &self,
        group: GroupId,
        members: Vec<String>,
    ) -> Result<frame::GroupState, RequestError> {
        self.group_request(Body::GroupAdd(frame::GroupAdd {
            op_id: self.new_op(),
            group: group.0,
            members,
        }))
        .await
    }

    /// Removes members.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn group_remove(
        &self,
        group: GroupId,
        members: Vec<UserId>,
    ) -> Result<frame::GroupState, RequestError> {
        self.group_request(Body::GroupRemove(frame::GroupRemove {
            op_id: self.new_op(),
            group: group.0,
            members: members.into_iter().map(|user| user.0).collect(),
        }))
        .await
    }

    /// Leaves a group.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn group_leave(&self, group: GroupId) -> Result<frame::GroupState, RequestError> {
        self.group_request(Body::GroupLeave(frame::GroupLeave {
            op_id: self.new_op(),
            group: group.0,
        }))
        .await
    }

    /// Gives a member another role.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn group_role(
        &self,
        group: GroupId,
        member: UserId,
        role: Role,
    ) -> Result<frame::GroupState, RequestError> {
        self.group_request(Body::GroupRole(frame::GroupRole {
            op_id: self.new_op(),
            group: group.0,
            member: member.0,
            role: role.into(),
        }))
        .await
    }

    /// Name, size and one's own role.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn group(&self, group: GroupId) -> Result<frame::GroupState, RequestError> {
        self.group_request(Body::GroupGet(frame::GroupGet { group: group.0 }))
            .await
    }

    /// A page of a group's members; an empty cursor for the first.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn members(
        &self,
        group: GroupId,
        cursor: Bytes,
        limit: u32,
    ) -> Result<frame::MembersPage, RequestError> {
        let get = frame::MembersGet {
            group: group.0,
            cursor,
            limit,
        };
        match self.request(Body::Members(get)).await? {
            Body::MembersPage(page) => Ok(page),
            _ => Err(RequestError::UnexpectedAnswer),
        }
    }

    /// A page of a group's marks. With `follow` its receipts come to [`crate::Events`] until a call
    /// without; after a reconnect the client asks for them again by itself.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn marks(
        &self,
        group: GroupId,
        follow: bool,
        cursor: Bytes,
        limit: u32,
    ) -> Result<frame::MarksPage, RequestError> {
        let get = frame::MarksGet {
            group: group.0,
            follow,
            cursor,
            limit,
        };
        match self.request(Body::Marks(get)).await? {
            Body::MarksPage(page) => Ok(page),
            _ => Err(RequestError::UnexpectedAnswer),
        }
    }

    /// Follows the presence of these users, and no longer of others. Repeated after a
    /// reconnect. Shows only users who have written to oneself.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn presence_subscribe(&self, users: &[UserId]) -> Result<(), RequestError> {
        let subscribe = frame::PresenceSubscribe {
            users: users.iter().map(|user| user.0).collect(),
        };
        match self.request(Body::PresenceSubscribe(subscribe)).await? {
            Body::Done(_) => Ok(()),
            _ => Err(RequestError::UnexpectedAnswer),
        }
    }

    /// Replaces the token of the session, of the same user and device.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn reauth(&self, token: impl Into<String>) -> Result<(), RequestError> {
        let (answer, answered) = oneshot::channel();
        let token = token.into();
        let wait = async {
            self.handle
                .commands
                .send(Command::Reauth { token, answer })
                .await
                .map_err(|_| RequestError::Closed)?;
            answered.await.unwrap_or(Err(RequestError::Closed))
        };
        match self.within_time(wait).await? {
            Body::Done(_) => Ok(()),
            _ => Err(RequestError::UnexpectedAnswer),
        }
    }
}
