//! The replay of real conversations through a real node, small enough for every change: 200
//! conversations, and both sides killed on the way. `cargo xtask replay` plays all of them.

use std::{path::PathBuf, time::Duration};

use chat_tests::{
    node,
    replay::{
        plan,
        run::{self, Settings},
    },
};

fn settings(options: plan::Options) -> Settings {
    Settings {
        options,
        cache: node::workspace().join(".cache"),
        speed: None,
        kills: 1,
        away: Duration::ZERO,
        processes: 0,
        simple: false,
        program: PathBuf::from(env!("CARGO_BIN_EXE_replay")),
        keep: None,
        plot: None,
        // With the rate limits of people: they are part of what is tried. Acknowledgements
        // wait long for their commit, so that a kill takes many of them with it.
        node: node::Options {
            environment: vec![("CHATD_SHARDS_ACK_FLUSH_MS".into(), "2000".into())],
            ..node::Options::default()
        },
        talk: false,
    }
}

fn play(settings: &Settings) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let outcome = runtime
        .block_on(Box::pin(run::run(settings)))
        .expect("the replay runs");
    println!("{}", outcome.table);
    let objections = outcome.objections(settings);
    assert!(
        objections.is_empty(),
        "{}\n{}",
        outcome.table,
        objections.join("\n")
    );
}

#[test]
fn two_hundred_conversations_of_two_survive_a_kill_of_the_server() {
    let options = plan::Options {
        conversations: Some(200),
        pairs_only: true,
        ..plan::Options::default()
    };
    play(&Settings {
        simple: true,
        ..settings(options)
    });
}

#[test]
fn two_hundred_conversations_and_groups_survive_kills_of_the_server_and_of_a_client() {
    let options = plan::Options {
        conversations: Some(200),
        seed: 2,
        ..plan::Options::default()
    };
    play(&Settings {
        processes: 1,
        ..settings(options)
    });
}
