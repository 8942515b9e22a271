//! More connections than are allowed, from two client processes.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, Command, Stdio},
    time::{Duration, Instant},
};

use chat_tests::node::Node;
use serde::Deserialize;

/// What a node allows by default.
const ALLOWED: usize = 10_000;
/// What one process tries.
const EACH: usize = 10_000;

#[derive(Deserialize)]
struct Entered {
    welcomed: usize,
    refused: BTreeMap<String, usize>,
}

#[derive(Deserialize)]
struct Answers {
    answers: usize,
}

struct Crowd {
    child: Child,
    input: ChildStdin,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Crowd {
    fn start(node: &Node, source: &str, count: usize) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_crowd"))
            .args([&node.address().to_string(), source, &count.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the crowd starts");
        let lines = BufReader::new(child.stdout.take().expect("it was asked for")).lines();
        let input = child.stdin.take().expect("it was asked for");
        Self {
            child,
            input,
            lines,
        }
    }

    fn line(&mut self) -> String {
        self.lines
            .next()
            .expect("the crowd says something")
            .expect("it is text")
    }

    fn entered(&mut self) -> Entered {
        serde_json::from_str(&self.line()).expect("what became of it")
    }

    fn answers(&mut self) -> usize {
        self.input.write_all(b"ping\n").expect("the crowd listens");
        serde_json::from_str::<Answers>(&self.line())
            .expect("how many answer")
            .answers
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn twenty_thousand_connections_where_ten_thousand_are_allowed_leave_the_allowed_ones_served() {
    let mut node = Node::start().expect("a node");
    let mut crowds = ["127.0.0.2", "127.0.0.3"].map(|source| Crowd::start(&node, source, EACH));
    let entered = crowds.each_mut().map(Crowd::entered);
    for crowd in &entered {
        println!("{} welcomed, refused: {:?}", crowd.welcomed, crowd.refused);
    }
    let welcomed: usize = entered.iter().map(|crowd| crowd.welcomed).sum();
    let refused: usize = entered
        .iter()
        .flat_map(|crowd| crowd.refused.values())
        .sum();
    assert_eq!(welcomed, ALLOWED, "all that are allowed, and no more");
    assert_eq!(welcomed + refused, 2 * EACH);
    let told: usize = entered
        .iter()
        .flat_map(|crowd| &crowd.refused)
        .filter(|(reason, _)| reason.contains("503"))
        .map(|(_, count)| count)
        .sum();
    // So many at once that not all can be told why: a bounded number is, the others find
    // the connection closed. Nobody is left waiting.
    assert!(told * 10 >= refused, "{told} of {refused} were told why");
    assert!(
        entered
            .iter()
            .all(|crowd| !crowd.refused.contains_key("no answer"))
    );
    let answers: usize = crowds.iter_mut().map(Crowd::answers).sum();
    assert_eq!(answers, welcomed, "everybody who is in is still served");
    node.check().expect("the node goes on");
    // When one crowd has left, others come in.
    let [first, _second] = crowds;
    drop(first);
    let deadline = Instant::now() + Duration::from_secs(30);
    while node.metric("chatd_connections").expect("metrics") > entered[1].welcomed as f64 {
        assert!(
            Instant::now() < deadline,
            "the places of those who left are not freed"
        );
        std::thread::yield_now();
    }
    let mut others = Crowd::start(&node, "127.0.0.4", 100);
    assert_eq!(others.entered().welcomed, 100);
}
