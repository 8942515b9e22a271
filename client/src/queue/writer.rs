//! The thread that writes the queue's file: syncs take milliseconds, and sockets
//! must not wait for them. What came while the last sync ran is written and synced together.
//!
//! Bounds: [`JOBS`] waiting, then [`crate::Client::send`] waits; [`BATCH`] in one write.

use std::path::PathBuf;

use chat_wire::{frame, ids::ClientId};
use tokio::sync::{mpsc, oneshot};

use super::{Log, MAX_RECORD_BYTES, QueueError, Recovered};
use crate::{
    SendError,
    shared::{Command, unix_ms},
};

const JOBS: usize = 1024;
const BATCH: usize = 256;

type Answer = oneshot::Sender<Result<frame::Sent, SendError>>;

enum Job {
    Append {
        id: ClientId,
        send: Box<frame::Send>,
        answer: Answer,
        queued: oneshot::Sender<Result<(), QueueError>>,
    },
    /// Acknowledged, or gone.
    Over(ClientId, bool),
    Stop(oneshot::Sender<()>),
}

/// Speaks to the thread.
#[derive(Clone)]
pub(crate) struct Writer {
    jobs: mpsc::Sender<Job>,
}

/// A message that was handed over.
pub(crate) type Queued = oneshot::Receiver<Result<(), QueueError>>;

impl Writer {
    /// Hands a message over; the receiver says when it is synced. After this returned, the message
    /// will be sent whether or not somebody waits.
    pub(crate) async fn append(
        &self,
        id: ClientId,
        send: Box<frame::Send>,
        answer: Answer,
    ) -> Result<Queued, QueueError> {
        let bytes = prost::Message::encoded_len(&*send);
        if bytes >= MAX_RECORD_BYTES {
            return Err(QueueError::TooLarge { bytes });
        }
        let (queued, synced) = oneshot::channel();
        self.jobs
            .send(Job::Append {
                id,
                send,
                answer,
                queued,
            })
            .await
            .map_err(|_| QueueError::Closed)?;
        Ok(synced)
    }

    /// A message is over. False if there is no room now.
    pub(crate) fn over(&self, id: ClientId, acknowledged: bool) -> bool {
        !matches!(
            self.jobs.try_send(Job::Over(id, acknowledged)),
            Err(mpsc::error::TrySendError::Full(_))
        )
    }

    /// Writes what waits and closes the file.
    pub(crate) async fn stop(&self) {
        let (done, stopped) = oneshot::channel();
        if self.jobs.send(Job::Stop(done)).await.is_ok() {
            // An error means that the thread has ended, which is what is wanted.
            drop(stopped.await);
        }
    }
}

/// Opens the file and starts its thread.
pub(crate) async fn open(
    path: PathBuf,
    commands: mpsc::Sender<Command>,
) -> Result<(Writer, Recovered), QueueError> {
    let (jobs, receiver) = mpsc::channel(JOBS);
    let (opened, wait) = oneshot::channel();
    std::thread::Builder::new()
        .name("chat-queue".to_owned())
        .spawn(move || match Log::open(&path, unix_ms()) {
            Ok((log, recovered)) => {
                if opened.send(Ok(recovered)).is_ok() {
                    write(log, receiver, &commands);
                }
            }
            Err(error) => drop(opened.send(Err(error))),
        })
        .map_err(|error| QueueError::Io {
            action: "start the thread of",
            path: PathBuf::from("the queue"),
            reason: error.to_string(),
        })?;
    let recovered = wait.await.map_err(|_| QueueError::Closed)??;
    Ok((Writer { jobs }, recovered))
}

fn write(mut log: Log, mut jobs: mpsc::Receiver<Job>, commands: &mpsc::Sender<Command>) {
    let mut stop = None;
    while stop.is_none()
        && let Some(first) = jobs.blocking_recv()
    {
        let mut messages = Vec::new();
        let mut waiters = Vec::new();
        let mut over = Vec::new();
        let mut job = Some(first);
        while let Some(next) = job.take() {
            match next {
                Job::Append {
                    id,
                    send,
                    answer,
                    queued,
                } => {
                    messages.push((id, send));
                    waiters.push((answer, queued));
                }
                Job::Over(id, acknowledged) => over.push((id, acknowledged)),
                Job::Stop(done) => stop = Some(done),
            }
            if messages.len() + over.len() < BATCH && stop.is_none() {
                job = jobs.try_recv().ok();
            }
        }
        let result = log.append(&messages, &over, unix_ms());
        if let Err(error) = &result
            && waiters.is_empty()
        {
            tracing::warn!(%error, "messages will be sent again by the next process");
        }
        for ((id, send), (answer, queued)) in messages.into_iter().zip(waiters) {
            let told = match &result {
                Ok(()) => commands
                    .blocking_send(Command::Send {
                        id,
                        send,
                        answer: Some(answer),
                    })
                    .map_err(|_| QueueError::Closed),
                Err(error) => Err(error.clone()),
            };
            // Nobody waits: the message is on its way all the same.
            drop(queued.send(told));
        }
    }
    drop(log);
    if let Some(done) = stop {
        // Whoever asked may have stopped waiting.
        done.send(()).unwrap_or_default();
    }
}
