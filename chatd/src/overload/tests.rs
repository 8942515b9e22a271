use super::*;

fn spent(session: u64, user: u64, app: u64, units: u64) -> Spent {
    Spent {
        session: SessionId(session),
        user: UserId(user),
        app,
        units,
    }
}

fn memory(percent: u64) -> Measured {
    Measured {
        memory_percent: percent,
        ..Measured::default()
    }
}

/// A look at what was measured, after one at nothing spent.
fn look(overload: &mut Overload, measured: Measured, all: &[Spent]) -> Vec<Action> {
    if overload.measured(&measured) {
        overload.act(all)
    } else {
        overload.act(&[])
    }
}

/// Two looks: what is spent between them counts.
fn after_a_look(measured: Measured, all: &[Spent]) -> Vec<Action> {
    let mut overload = Overload::default();
    let begun: Vec<_> = all.iter().map(|of| Spent { units: 0, ..*of }).collect();
    look(&mut overload, measured, &begun);
    look(&mut overload, measured, all)
}

#[test]
fn nothing_is_done_while_nothing_presses() {
    let calm = Measured {
        memory_percent: 74,
        log_percent: 89,
        queue_ms: 249,
    };
    assert_eq!(after_a_look(calm, &[spent(1, 1, 1, 1_000_000)]), []);
}

#[test]
fn memory_first_flushes_then_sheds_then_closes_the_heaviest_and_nobody_new_comes_in() {
    let all = [spent(1, 1, 1, 10), spent(2, 2, 1, 1_000)];
    let heavy = SessionId(2);
    assert_eq!(after_a_look(memory(75), &all), [Action::Flush]);
    assert_eq!(
        after_a_look(memory(90), &all),
        [Action::Flush, Action::Shed(heavy)]
    );
    let mut overload = Overload::default();
    assert_eq!(
        look(
            &mut overload,
            memory(100),
            &all.map(|of| Spent { units: 0, ..of })
        ),
        [Action::Flush, Action::RefuseNewcomers(true)]
    );
    assert_eq!(
        look(&mut overload, memory(100), &all),
        [Action::Flush, Action::Shed(heavy), Action::Close(heavy)]
    );
    // A little below the bound it stays so; then it ends.
    assert!(!look(&mut overload, memory(96), &all).contains(&Action::RefuseNewcomers(false)));
    assert!(look(&mut overload, memory(94), &all).contains(&Action::RefuseNewcomers(false)));
}

#[test]
fn a_log_near_its_budget_sheds_the_heaviest_and_lets_everybody_in() {
    let log = Measured {
        log_percent: 90,
        ..Measured::default()
    };
    let all = [spent(1, 1, 1, 10), spent(2, 2, 1, 1_000)];
    assert_eq!(after_a_look(log, &all), [Action::Shed(SessionId(2))]);
}

#[test]
fn an_old_queue_sheds_the_heaviest_and_a_very_old_one_lets_nobody_in() {
    let queue = |queue_ms| Measured {
        queue_ms,
        ..Measured::default()
    };
    let all = [spent(1, 1, 1, 10), spent(2, 2, 1, 1_000)];
    assert_eq!(after_a_look(queue(250), &all), [Action::Shed(SessionId(2))]);
    let mut overload = Overload::default();
    assert_eq!(
        look(&mut overload, queue(2_000), &all),
        [Action::RefuseNewcomers(true)]
    );
}

/// The cap on memory refused newcomers, and the attacker's session was never shed.
#[test]
fn all_sessions_of_the_heaviest_user_are_shed_and_those_who_spend_little_never_are() {
    // Many who do something, one with four sessions who does most.
    let mut all: Vec<_> = (1..=100).map(|user| spent(user, user, 1, 50)).collect();
    all.extend((0..4).map(|device| spent(200 + device, 200, 1, 5_000)));
    let shed = after_a_look(memory(90), &all);
    let expected = (200..204).map(|session| Action::Shed(SessionId(session)));
    let expected: Vec<_> = [Action::Flush].into_iter().chain(expected).collect();
    assert_eq!(shed, expected);
}

#[test]
fn what_was_spent_before_the_pressure_is_no_reason_to_be_shed() {
    let mut overload = Overload::default();
    let old = [spent(1, 1, 1, 1_000_000), spent(2, 2, 1, 0)];
    assert_eq!(look(&mut overload, memory(90), &old), [Action::Flush]);
    let now = [spent(1, 1, 1, 1_000_000), spent(2, 2, 1, 500)];
    assert_eq!(
        look(&mut overload, memory(90), &now),
        [Action::Flush, Action::Shed(SessionId(2))]
    );
}

/// An app is held to its share only while something presses, and only beside another.
#[test]
fn of_an_app_above_its_share_users_are_shed_before_a_heavier_one_of_another_app() {
    let mut all: Vec<_> = (1..=10).map(|user| spent(user, user, 1, 900)).collect();
    all.push(spent(50, 50, 2, 1_000));
    let shed = after_a_look(memory(90), &all);
    assert!(shed.contains(&Action::Shed(SessionId(1))), "{shed:?}");
    assert!(!shed.contains(&Action::Shed(SessionId(50))), "{shed:?}");
    // Alone the app has no share to be held to: the heaviest first.
    all.iter_mut().for_each(|of| of.app = 1);
    let shed = after_a_look(memory(90), &all);
    assert_eq!(shed[1], Action::Shed(SessionId(50)));
}
