//! The real conversations that the replay plays: the Python package
//! `chitchat-dataset` 0.9.0 (MIT), got by pip into a cache folder.
//!
//! It is not committed: it is 40 MB, and other people's words. When it cannot be had
//! [`obtain`] makes a small sample of the same shape and says why. Known limit: the
//! package is recognised by its counts, not by a signature.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde::Deserialize;

/// Name and version for pip.
pub const PACKAGE: &str = "chitchat-dataset==0.9.0";
/// Conversations in the package.
pub const CONVERSATIONS: usize = 7_168;
/// Messages in the package, empty ones included.
pub const MESSAGES: usize = 258_145;
/// People in the package.
pub const PEOPLE: usize = 1_315;
/// Texts in the package that hold nothing.
pub const EMPTY: usize = 33;
/// Conversations of the sample that stands in for it.
pub const SAMPLE_CONVERSATIONS: usize = 240;

/// What people said, each conversation in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    /// Names, each once, sorted.
    pub people: Vec<String>,
    /// By the time of their first message, then by id.
    pub conversations: Vec<Conversation>,
}

/// One conversation of one or two people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conversation {
    /// Its name in the dataset.
    pub id: String,
    /// What was said, in order; never empty.
    pub messages: Vec<Said>,
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Index into [`Dataset::people`].
    pub sender: u32,
    /// The words; empty ones exist.
    pub text: String,
    /// Seconds since 1970.
    pub at_s: u64,
}

/// Where a dataset came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The real one.
    Package,
    /// Made here, because the package could not be had.
    Sample {
        /// What kept us from it.
        why: String,
    },
}

/// Why the package's file is not the dataset.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// It cannot be read.
    #[error("cannot read {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// It is no JSON of the known shape.
    #[error("the dataset has another shape than version 0.9.0: {0}")]
    Shape(String),
}

#[derive(Deserialize)]
struct StoredConversation {
    messages: Vec<Vec<StoredMessage>>,
}

#[derive(Deserialize)]
struct StoredMessage {
    text: String,
    timestamp: String,
    sender: String,
}

/// The dataset out of `cache`, where pip puts it if it is not there yet; else a sample.
///
/// # Errors
/// [`DatasetError`] if the package is there but is not what it should be: that is
/// worth a person's look, and is not papered over by the sample.
pub fn obtain(cache: &Path) -> Result<(Dataset, Origin), DatasetError> {
    match download(cache) {
        Ok(path) => {
            let bytes = std::fs::read(&path).map_err(|source| DatasetError::Unreadable {
                path: path.clone(),
                source,
            })?;
            let dataset = parse(&bytes)?;
            let messages: usize = dataset.conversations.iter().map(|c| c.messages.len()).sum();
            if (dataset.conversations.len(), messages, dataset.people.len())
                != (CONVERSATIONS, MESSAGES, PEOPLE)
            {
                return Err(DatasetError::Shape(format!(
                    "{} conversations, {messages} messages, {} people",
                    dataset.conversations.len(),
                    dataset.people.len()
                )));
            }
            Ok((dataset, Origin::Package))
        }
        Err(why) => Ok((sample(1, SAMPLE_CONVERSATIONS), Origin::Sample { why })),
    }
}

/// The path of the extracted `dataset.json`, downloading it at most once.
fn download(cache: &Path) -> Result<PathBuf, String> {
    let folder = cache.join("chitchat-dataset-0.9.0");
    let json = folder.join("chitchat_dataset").join("dataset.json");
    if json.is_file() {
        return Ok(json);
    }
    let say = |what: &str, error: &dyn std::fmt::Display| format!("{what}: {error}");
    std::fs::create_dir_all(cache).map_err(|error| say("cannot make the cache folder", &error))?;
    // Two processes may do this at once: each works in a folder of its own, and the
    // last step is one rename.
    let work = cache.join(format!("chitchat-dataset-{}", std::process::id()));
    std::fs::create_dir_all(&work).map_err(|error| say("cannot make a folder", &error))?;
    let result = download_into(&work).and_then(|()| {
        match std::fs::rename(&work, &folder) {
            Ok(()) => Ok(()),
            // The other process was first.
            Err(_) if json.is_file() => Ok(()),
            Err(error) => Err(say("cannot move the dataset into place", &error)),
        }
    });
    if work.exists() {
        drop(std::fs::remove_dir_all(&work));
    }
    result.map(|()| json)
}

fn download_into(work: &Path) -> Result<(), String> {
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", PACKAGE, "--no-deps", "--quiet"])
        .args([
            "--disable-pip-version-check",
            "--timeout",
            "20",
            "--retries",
            "2",
            "--dest",
        ])
        .arg(work);
    run(&mut pip, "pip download")?;
    let wheel = std::fs::read_dir(work)
        .map_err(|error| error.to_string())?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|ext| ext == "whl"))
        .ok_or("pip left no wheel")?;
    let mut unzip = Command::new("python3");
    unzip.args(["-m", "zipfile", "-e"]).arg(&wheel).arg(work);
    run(&mut unzip, "unpacking the wheel")
}

fn run(command: &mut Command, what: &str) -> Result<(), String> {
    let output = command
        .output()
        .map_err(|error| format!("{what}: python3 does not start: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().rev().find(|line| !line.trim().is_empty());
    Err(format!(
        "{what} failed: {}",
        last.unwrap_or("without a word")
    ))
}

/// Reads the package's JSON: id → conversation → turns → messages.
///
/// # Errors
/// [`DatasetError::Shape`] if a field is missing or a time cannot be read.
pub fn parse(json: &[u8]) -> Result<Dataset, DatasetError> {
    let stored: BTreeMap<String, StoredConversation> =
        serde_json::from_slice(json).map_err(|error| DatasetError::Shape(error.to_string()))?;
    let mut people: Vec<String> = stored
        .values()
        .flat_map(|conversation| conversation.messages.iter().flatten())
        .map(|message| message.sender.clone())
        .collect();
    people.sort_unstable();
    people.dedup();
    let mut conversations = Vec::with_capacity(stored.len());
    for (id, conversation) in stored {
        let messages = conversation
            .messages
            .into_iter()
            .flatten()
            .map(|message| {
                let at_s = seconds(&message.timestamp).ok_or_else(|| {
                    DatasetError::Shape(format!("the time {:?} in {id}", message.timestamp))
                })?;
                let sender = people
                    .binary_search(&message.sender)
                    .expect("every sender was collected above");
                Ok(Said {
                    sender: u32::try_from(sender).expect("fewer people than u32::MAX"),
                    text: message.text,
                    at_s,
                })
            })
            .collect::<Result<Vec<_>, DatasetError>>()?;
        if !messages.is_empty() {
            conversations.push(Conversation { id, messages });
        }
    }
    conversations.sort_by(|a, b| (a.messages[0].at_s, &a.id).cmp(&(b.messages[0].at_s, &b.id)));
    Ok(Dataset {
        people,
        conversations,
    })
}

/// Seconds since 1970 of `YYYY-MM-DDThh:mm:ssZ`.
fn seconds(stamp: &str) -> Option<u64> {
    let number = |from: usize, to: usize| stamp.get(from..to)?.parse::<u64>().ok();
    if stamp.len() != 20 || !stamp.ends_with('Z') {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    if year < 1970 || !(1..=12).contains(&month) {
        return None;
    }
    // Days from a March-based year: Howard Hinnant, "chrono-compatible low-level date
    // algorithms", days_from_civil.
    let march_year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days =
        march_year * 365 + march_year / 4 - march_year / 100 + march_year / 400 + day_of_year
            - 719_468;
    Some(days * 86_400 + number(11, 13)? * 3_600 + number(14, 16)? * 60 + number(17, 19)?)
}

/// A small dataset of the same shape: most conversations of two, some of one, pairs
/// that meet again, a few empty texts.
#[must_use]
pub fn sample(seed: u64, conversations: usize) -> Dataset {
    const WORDS: &[&str] = &[
        "hello",
        "how",
        "are",
        "you",
        "today?",
        "fine",
        "and",
        "the",
        "weather",
        "is",
        "lovely",
        "я",
        "здесь",
        "日本",
        "🙂",
        "no",
        "really",
        "why",
        "because",
        "\"quoted\"",
        "a\nline",
    ];
    let mut random = StdRng::seed_from_u64(seed);
    let count = (conversations / 5).max(4);
    let people: Vec<String> = (0..count).map(|n| format!("person-{n:05}")).collect();
    let person = |random: &mut StdRng| {
        // Squared, so that some people talk much more than others.
        let at = random.random::<f64>().powi(2) * f64::from(u32::try_from(count).unwrap_or(1));
        (0..count)
            .find(|n| at < f64::from(u32::try_from(n + 1).unwrap_or(1)))
            .unwrap_or(0)
    };
    let conversations = (0..conversations)
        .map(|number| {
            let first = person(&mut random);
            let alone = random.random_bool(0.44);
            let mut second = person(&mut random);
            if second == first {
                second = (first + 1) % count;
            }
            let length = if alone {
                random.random_range(1..6)
            } else {
                random.random_range(2..40)
            };
            let start_s = 1_525_000_000 + number as u64 * 60;
            let messages = (0..length)
                .map(|at| {
                    // The first two lines make sure that both speak.
                    let other = !alone && (at == 1 || (at > 1 && random.random_bool(0.5)));
                    let words = if random.random_bool(0.002) {
                        0
                    } else {
                        random.random_range(1..12)
                    };
                    let text: Vec<&str> = (0..words)
                        .map(|_| WORDS[random.random_range(0..WORDS.len())])
                        .collect();
                    Said {
                        sender: u32::try_from(if other { second } else { first })
                            .expect("few people"),
                        text: text.join(" "),
                        at_s: start_s + at as u64 * 7,
                    }
                })
                .collect();
            Conversation {
                id: format!("sample-{number:05}"),
                messages,
            }
        })
        .collect();
    Dataset {
        people,
        conversations,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversation_is_read_in_the_order_of_its_turns() {
        let json = br#"{"b": {"messages": [[{"text": "hi", "timestamp": "2018-05-02T19:38:15Z",
            "sender": "ann"}, {"text": "there", "timestamp": "2018-05-02T19:38:20Z", "sender": "ann"}],
            [{"text": "", "timestamp": "2018-05-02T19:38:29Z", "sender": "Bob"}]],
            "start": "2018-05-03T01:38:01Z", "prompt": "?"},
            "a": {"messages": [[{"text": "x", "timestamp": "1970-01-02T00:00:01Z", "sender": "ann"}]]}}"#;
        let dataset = parse(json).unwrap();
        assert_eq!(dataset.people, ["Bob", "ann"]);
        let ids: Vec<&str> = dataset
            .conversations
            .iter()
            .map(|c| c.id.as_str())
            .collect();
        assert_eq!(ids, ["a", "b"], "by time, not by name");
        let said: Vec<(u32, &str)> = dataset.conversations[1]
            .messages
            .iter()
            .map(|m| (m.sender, m.text.as_str()))
            .collect();
        assert_eq!(said, [(1, "hi"), (1, "there"), (0, "")]);
        assert_eq!(dataset.conversations[0].messages[0].at_s, 86_401);
        assert_eq!(dataset.conversations[1].messages[0].at_s, 1_525_289_895);
    }

    #[test]
    fn a_file_of_another_shape_is_refused_with_a_reason() {
        let error = parse(br#"{"a": {"messages": [[{"text": "x"}]]}}"#).unwrap_err();
        assert!(error.to_string().contains("timestamp"), "{error}");
        let error =
            parse(br#"{"a": {"messages": [[{"text":"x","sender":"s","timestamp":"today"}]]}}"#)
                .unwrap_err();
        assert!(error.to_string().contains("today"), "{error}");
    }

    #[test]
    fn the_sample_is_the_same_for_a_seed_and_has_both_kinds() {
        let a = sample(7, 60);
        assert_eq!(a, sample(7, 60));
        assert_ne!(a, sample(8, 60));
        let voices = |c: &Conversation| {
            let mut who: Vec<u32> = c.messages.iter().map(|m| m.sender).collect();
            who.sort_unstable();
            who.dedup();
            who.len()
        };
        let of_two = a.conversations.iter().filter(|c| voices(c) == 2).count();
        assert!(of_two > 10 && of_two < 55, "{of_two} of 60");
        assert!(a.conversations.iter().all(|c| (1..=2).contains(&voices(c))));
    }
}
