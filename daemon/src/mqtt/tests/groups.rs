//! Subscriptions that come and go on one connection.

use super::fake::{Do, Fake, Got};
use super::*;

#[tokio::test]
async fn a_broker_says_whether_it_has_shared_subscriptions() {
    for (says, has) in [(Do::Well, true), (Do::Unshared, false)] {
        let fake = Fake::start(vec![], move |got| match got {
            Got::Connect => says,
            _ => Do::Well,
        })
        .await;
        let (_link, mut events) = connect(fake.options(&["in"]));
        match event(&mut events).await {
            Event::Up { shared, .. } => assert_eq!(shared, has),
            other => panic!("{other:?}"),
        }
    }
}

/// What the broker had sent before it took a subscription back comes before the word of that; a reason code changes nothing,
/// because there is no subscription either way.
#[tokio::test]
async fn what_comes_before_a_subscription_is_taken_back_is_heard_before() {
    let fake = Fake::start(vec![], |got| match got {
        Got::Unsubscribe(filter) if filter == "none" => Do::Code(0x11),
        _ => Do::Well,
    })
    .await;
    let (link, mut events) = connect(fake.options(&["in"]));
    up(&mut events).await;
    for group in ["$share/house/g", "none"] {
        link.subscribe(0, group.to_owned(), true).unwrap();
        link.unsubscribe(group.to_owned()).unwrap();
        match event(&mut events).await {
            Event::Subscribed {
                filter,
                refused: None,
                ..
            } => assert_eq!(filter, group),
            other => panic!("{other:?}"),
        }
        assert_eq!(message(&link, &mut events).await.message.topic, "late");
        match event(&mut events).await {
            Event::Withdrawn { filter } => assert_eq!(filter, group),
            other => panic!("{other:?}"),
        }
    }
}
