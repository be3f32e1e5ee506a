//! Bearer tokens.

use super::super::login::{
    ALL, broker_for_tokens, claims, enter, expect_secret_updated, is_let_in, now_s, token, update_secret,
};
use super::super::support::Declare;
use super::{assert_alive, names, with_user_id};
use serde_json::json;

#[test]
fn cve_2026_67420_a_tag_that_a_renewed_token_lacks_is_gone() {
    let broker = broker_for_tokens("");
    let tagged = format!("{ALL} rabbitmq.tag:impersonator");
    let mut peer = enter(&broker, "", &token(&claims("hare", &tagged)));
    peer.declare(1, Declare::transient("q"));
    peer.confirm_select(1);
    peer.publish(1, "q", &with_user_id("tortoise"), b"m");
    peer.expect_confirms(1, 1);
    update_secret(&mut peer, &token(&claims("hare", ALL)));
    expect_secret_updated(&mut peer);
    peer.publish(1, "q", &with_user_id("tortoise"), b"m");
    let text = "PRECONDITION_FAILED - user_id property set to 'tortoise' but authenticated user was 'hare'";
    peer.expect_channel_close(1, 406, text);
}

#[test]
fn cve_2026_67242_an_expiry_with_a_fraction_is_one() {
    let broker = broker_for_tokens("");
    let with = |exp: f64| {
        let mut claims = claims("hare", ALL);
        claims["exp"] = json!(exp);
        token(&claims)
    };
    assert!(!is_let_in(&broker, "", &with(now_s() as f64 - 60.5)));
    assert!(!is_let_in(&broker, "", &with(1.5)));
    // Taken or not, it does not outlive its time.
    if is_let_in(&broker, "", &with(now_s() as f64 + 2.5)) {
        let mut peer = enter(&broker, "", &with(now_s() as f64 + 2.5));
        peer.expect_connection_close(320, "CONNECTION_FORCED - credential expired");
    }
}

#[test]
fn cve_2026_66071_tags_of_tokens_leave_nothing() {
    let mut broker = broker_for_tokens("");
    names::leaves_nothing(&broker, 4000, |names| {
        // Ten in each token, whose size a login bounds.
        for tags in names.chunks(10) {
            let tags: String = tags.iter().map(|tag| format!(" rabbitmq.tag:{tag}")).collect();
            enter(&broker, "", &token(&claims("hare", &format!("{ALL}{tags}")))).close();
        }
    });
    assert_alive(&mut broker);
}
