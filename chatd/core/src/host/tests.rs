//! Hosts and sessions together, on virtual time.

mod authority;
mod bounds;
mod cold;
mod costs;
mod delivery;
mod everything;
mod groups;
mod people;
mod recovery;
mod room;
mod turns;

use chat_wire::frame::{self, Body};

use crate::simulated::Node;

#[test]
fn a_message_is_sent_delivered_acknowledged_and_receipted() {
    let mut node = Node::new(8, 1);
    let ann = node.attach("ann", 1, None);
    let bob = node.attach("bob", 1, None);
    assert_eq!(node.welcome(ann).unwrap().name, "ann");

    node.text(ann, 7, "bob", "hello");
    let sent = node.wait_sent(ann, 7);
    assert!(!sent.duplicate);
    node.run_until(1000, |node| {
        !node.texts(bob).is_empty() && !node.texts(ann).is_empty()
    });
    let event = node.events(bob)[0].clone();
    assert_eq!((event.inbox_seq, event.msg_id), (1, sent.msg_id));
    assert_eq!(event.sender_name, "ann");
    // The sender's own history.
    let copy = node.events(ann)[0].clone();
    assert_eq!((copy.inbox_seq, copy.msg_id), (1, sent.msg_id));

    node.ack(bob, 1);
    node.run_until(2000, |node| !node.receipts(ann).is_empty());
    let receipt = node.receipts(ann)[0];
    assert_eq!(
        (receipt.delivered_up_to, receipt.seen_up_to),
        (sent.msg_id, 0)
    );
    assert_eq!((receipt.from_version, receipt.to_version), (0, 1));

    let mark = frame::Mark {
        conversation: event.conversation,
        seen_up_to: sent.msg_id,
    };
    node.frame(bob, 0, Body::Mark(mark));
    node.run_until(2000, |node| node.receipts(ann).len() == 2);
    assert_eq!(node.receipts(ann)[1].seen_up_to, sent.msg_id);
    // SEEN is a receipt for oneself too.
    node.run_until(2000, |node| !node.receipts(bob).is_empty());
}
