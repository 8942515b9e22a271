//! The plan of the whole dataset has the shape that the replay claims.

use chat_tests::{
    dataset::{self, Origin},
    node,
    replay::plan::{Options, Place, Plan},
    skip::skipped,
};

#[test]
fn the_plan_of_the_whole_dataset_has_its_groups_its_deliveries_and_its_empty_texts() {
    let (dataset, origin) = dataset::obtain(&node::workspace().join(".cache")).unwrap();
    if let Origin::Sample { why } = origin {
        skipped("the_plan_of_the_whole_dataset", &why);
        return;
    }
    let plan = Plan::new(&dataset, &Options::default());
    assert_eq!(plan.lines.len(), dataset::MESSAGES);
    assert_eq!(plan.empty(), dataset::EMPTY);
    assert_eq!(plan.people.len(), dataset::PEOPLE);
    let groups = plan
        .places
        .iter()
        .filter(|place| matches!(place, Place::Group { .. }))
        .count();
    assert_eq!(
        groups,
        3_150 + 100,
        "one for each who talks alone, and a hundred merged ones"
    );
    let a_send = plan.deliveries() as f64 / plan.sends() as f64;
    println!(
        "{a_send:.1} receivers a send, {} members leave and return",
        plan.churn.len()
    );
    assert!((10.0..11.5).contains(&a_send), "{a_send} receivers a send");
    assert!(plan.churn.len() > 20);
    let largest = plan.places.iter().map(|place| match place {
        Place::Pair(_) => 2,
        Place::Group { members, .. } => members.len(),
    });
    assert_eq!(largest.max(), Some(1_001));
}
