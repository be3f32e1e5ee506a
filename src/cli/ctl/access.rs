//! Verbs about permissions.

use serde_json::{Value as Json, json};

use super::output::{Output, Rows};
use super::verb::{Call, Failure, Outcome, Verb, done, exit};
use crate::cli::api::{self, segment};

const GROUP: &str = "Access Control";
const PERMISSION: [(&str, &str); 3] = [("configure", "configure"), ("write", "write"), ("read", "read")];

pub const VERBS: &[Verb] = &[
    Verb {
        name: "set_permissions",
        arguments: "<username> <conf> <write> <read>",
        switches: &[],
        group: GROUP,
        about: "Sets a user's permissions in a virtual host",
        banner: Some(|call| {
            format!("Setting permissions for user \"{}\" in vhost \"{}\" ...", call.argument(0), call.vhost)
        }),
        run: set,
    },
    Verb {
        name: "set_permissions_globally",
        arguments: "<username> <conf> <write> <read>",
        switches: &[],
        group: GROUP,
        about: "Sets a user's permissions in all virtual hosts",
        banner: Some(|call| format!("Setting permissions for user \"{}\" in all virtual hosts ...", call.argument(0))),
        run: set_globally,
    },
    Verb {
        name: "clear_permissions",
        arguments: "<username>",
        switches: &[],
        group: GROUP,
        about: "Takes a user's permissions in a virtual host away",
        banner: Some(|call| {
            format!("Clearing permissions for user \"{}\" in vhost \"{}\" ...", call.argument(0), call.vhost)
        }),
        run: clear,
    },
    Verb {
        name: "list_permissions",
        arguments: "",
        switches: &[],
        group: GROUP,
        about: "Lists permissions in a virtual host",
        banner: Some(|call| format!("Listing permissions for vhost \"{}\" ...", call.vhost)),
        run: list,
    },
    Verb {
        name: "list_user_permissions",
        arguments: "<username>",
        switches: &[],
        group: GROUP,
        about: "Lists a user's permissions in all virtual hosts",
        banner: Some(|call| format!("Listing permissions for user \"{}\" ...", call.argument(0))),
        run: list_of_user,
    },
    Verb {
        name: "set_topic_permissions",
        arguments: "<username> <exchange> <write> <read>",
        switches: &[],
        group: GROUP,
        about: "Limits the keys that a user may use of a topic exchange",
        banner: Some(|call| {
            let (user, exchange) = (call.argument(0), call.argument(1));
            format!("Setting topic permissions on \"{exchange}\" for user \"{user}\" in vhost \"{}\" ...", call.vhost)
        }),
        run: set_topic,
    },
    Verb {
        name: "clear_topic_permissions",
        arguments: "<username> [<exchange>]",
        switches: &[],
        group: GROUP,
        about: "Lifts such limits, of one exchange or of all",
        banner: Some(|call| {
            format!("Clearing topic permissions for user \"{}\" in vhost \"{}\" ...", call.argument(0), call.vhost)
        }),
        run: clear_topic,
    },
    Verb {
        name: "list_topic_permissions",
        arguments: "",
        switches: &[],
        group: GROUP,
        about: "Lists topic permissions in a virtual host",
        banner: Some(|call| format!("Listing topic permissions for vhost \"{}\" ...", call.vhost)),
        run: list_topics,
    },
    Verb {
        name: "list_user_topic_permissions",
        arguments: "<username>",
        switches: &[],
        group: GROUP,
        about: "Lists a user's topic permissions in all virtual hosts",
        banner: Some(|call| format!("Listing topic permissions for user \"{}\" ...", call.argument(0))),
        run: list_topics_of_user,
    },
];

/// The user of the first argument in a virtual host, as a part of a path.
fn row(call: &Call, vhost: &str) -> String {
    format!("{}/{}", segment(vhost), segment(call.argument(0)))
}

/// Who or what was not there.
fn granted(call: &Call, answer: Result<Json, api::Failure>) -> Outcome {
    let (user, vhost) = (call.argument(0), &call.vhost);
    match answer {
        Err(failure) if matches!(failure.status(), Some(400 | 404)) => {
            let is_there = |path: &str, name: &str| call.api.get(&format!("/{path}/{}", segment(name))).is_ok();
            if !is_there("vhosts", vhost) {
                return Err(Failure::error(exit::UNAVAILABLE, format!("Virtual host {vhost} does not exist")));
            }
            if !is_there("users", user) {
                return Err(Failure::error(exit::NO_USER, format!("User {user} does not exist")));
            }
            Err(failure.into())
        }
        answer => done(answer),
    }
}

fn fields(call: &Call) -> Json {
    json!({"configure": call.argument(1), "write": call.argument(2), "read": call.argument(3)})
}

fn set(call: &Call) -> Outcome {
    granted(call, call.api.put(&format!("/permissions/{}", row(call, &call.vhost)), &fields(call)))
}

fn set_globally(call: &Call) -> Outcome {
    for vhost in call.api.get("/vhosts")?.as_array().into_iter().flatten() {
        let vhost = vhost["name"].as_str().unwrap_or_default();
        granted(call, call.api.put(&format!("/permissions/{}", row(call, vhost)), &fields(call)))?;
    }
    Ok(Output::Nothing)
}

/// What is not there is cleared.
fn cleared(call: &Call, answer: Result<Json, api::Failure>) -> Outcome {
    match answer {
        Err(failure) if failure.status() == Some(404) => {
            call.check_vhost()?;
            let user = call.argument(0);
            match call.api.get(&format!("/users/{}", segment(user))) {
                Err(failure) if failure.status() == Some(404) => Err(Failure::no_user(user)),
                answer => done(answer),
            }
        }
        answer => done(answer),
    }
}

fn clear(call: &Call) -> Outcome {
    cleared(call, call.api.delete(&format!("/permissions/{}", row(call, &call.vhost))))
}

fn list(call: &Call) -> Outcome {
    call.check_vhost()?;
    let rows = call.api.get(&format!("/vhosts/{}/permissions", call.vhost_segment()))?;
    Ok(Output::Rows(Rows::of(&rows, [("user", "user")].into_iter().chain(PERMISSION))))
}

fn of_user(call: &Call, what: &str) -> Result<Json, Failure> {
    let user = call.argument(0);
    call.api.get(&format!("/users/{}/{what}", segment(user))).map_err(|failure| match failure.status() {
        Some(404) => Failure::no_user(user),
        _ => failure.into(),
    })
}

fn list_of_user(call: &Call) -> Outcome {
    let rows = of_user(call, "permissions")?;
    Ok(Output::Rows(Rows::of(&rows, [("vhost", "vhost")].into_iter().chain(PERMISSION))))
}

fn set_topic(call: &Call) -> Outcome {
    let fields = json!({"exchange": call.argument(1), "write": call.argument(2), "read": call.argument(3)});
    granted(call, call.api.put(&format!("/topic-permissions/{}", row(call, &call.vhost)), &fields))
}

fn clear_topic(call: &Call) -> Outcome {
    let of = match call.arguments.get(1) {
        Some(exchange) => format!("{}/{}", row(call, &call.vhost), segment(exchange)),
        None => row(call, &call.vhost),
    };
    cleared(call, call.api.delete(&format!("/topic-permissions/{of}")))
}

const TOPIC: [(&str, &str); 3] = [("exchange", "exchange"), ("write", "write"), ("read", "read")];

fn list_topics(call: &Call) -> Outcome {
    call.check_vhost()?;
    let rows = call.api.get(&format!("/vhosts/{}/topic-permissions", call.vhost_segment()))?;
    Ok(Output::Rows(Rows::of(&rows, [("user", "user")].into_iter().chain(TOPIC))))
}

fn list_topics_of_user(call: &Call) -> Outcome {
    let rows = of_user(call, "topic-permissions")?;
    Ok(Output::Rows(Rows::of(&rows, [("vhost", "vhost")].into_iter().chain(TOPIC))))
}
