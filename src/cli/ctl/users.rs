//! Verbs about users: who they are, their tags and limits.

use std::io::BufRead;

use serde_json::{Value as Json, json};

use super::output::{Output, Rows};
use super::verb::{Call, Failure, Outcome, Switch, Verb, done, exit};
use crate::auth::{Algorithm, hash};
use crate::cli::api::segment;

const GROUP: &str = "Users";
const PRE_HASHED: Switch = Switch::flag("pre-hashed-password", "The password is a hash already");
const USER: Switch = Switch::value("user", "USERNAME", "Whose limits");
const GLOBAL: Switch = Switch::flag("global", "The limits of all users");

pub const VERBS: &[Verb] = &[
    Verb {
        name: "add_user",
        arguments: "<username> [<password>]",
        switches: &[PRE_HASHED],
        group: GROUP,
        about: "Creates a new user, who has no permissions yet",
        banner: Some(|call| format!("Adding user \"{}\" ...", call.argument(0))),
        run: add,
    },
    Verb {
        name: "delete_user",
        arguments: "<username>",
        switches: &[],
        group: GROUP,
        about: "Removes a user",
        banner: Some(|call| format!("Deleting user \"{}\" ...", call.argument(0))),
        run: delete,
    },
    Verb {
        name: "change_password",
        arguments: "<username> [<password>]",
        switches: &[PRE_HASHED],
        group: GROUP,
        about: "Changes the user's password",
        banner: Some(|call| format!("Changing password for user \"{}\" ...", call.argument(0))),
        run: change_password,
    },
    Verb {
        name: "clear_password",
        arguments: "<username>",
        switches: &[],
        group: GROUP,
        about: "Takes the user's password away, so that none is right",
        banner: Some(|call| format!("Clearing password for user \"{}\" ...", call.argument(0))),
        run: clear_password,
    },
    Verb {
        name: "authenticate_user",
        arguments: "<username> [<password>]",
        switches: &[],
        group: GROUP,
        about: "Tries to log in, and exits with a non-zero code if that fails",
        banner: Some(|call| format!("Authenticating user \"{}\" ...", call.argument(0))),
        run: authenticate,
    },
    Verb {
        name: "set_user_tags",
        arguments: "<username> [<tag>...]",
        switches: &[],
        group: GROUP,
        about: "Sets the user's tags in place of those that are there",
        banner: Some(|call| {
            format!("Setting tags for user \"{}\" to [{}] ...", call.argument(0), call.arguments[1..].join(", "))
        }),
        run: set_tags,
    },
    Verb {
        name: "list_users",
        arguments: "",
        switches: &[],
        group: GROUP,
        about: "Lists users and their tags",
        banner: Some(|_| "Listing users ...".to_owned()),
        run: list,
    },
    Verb {
        name: "hash_password",
        arguments: "[<password>]",
        switches: &[],
        group: GROUP,
        about: "Hashes a password, for definitions and --pre-hashed-password",
        banner: None,
        run: hash_password,
    },
    Verb {
        name: "set_user_limits",
        arguments: "<username> <definition>",
        switches: &[],
        group: GROUP,
        about: "Sets max-connections and max-channels of a user, as JSON",
        banner: Some(|call| {
            format!("Setting user limits to \"{}\" for user \"{}\" ...", call.argument(1), call.argument(0))
        }),
        run: set_limits,
    },
    Verb {
        name: "clear_user_limits",
        arguments: "<username> <limit>",
        switches: &[],
        group: GROUP,
        about: "Clears a limit of a user, or all of them",
        banner: Some(|call| match call.argument(1) {
            "all" => format!("Clearing all limits for user \"{}\" ...", call.argument(0)),
            limit => format!("Clearing \"{limit}\" limit for user \"{}\" ...", call.argument(0)),
        }),
        run: clear_limits,
    },
    Verb {
        name: "list_user_limits",
        arguments: "",
        switches: &[USER, GLOBAL],
        group: GROUP,
        about: "Lists limits of users",
        banner: Some(|call| match call.value("user") {
            _ if call.is_said("global") => "Listing limits for all users ...".to_owned(),
            user => format!("Listing limits for user \"{}\" ...", user.unwrap_or("guest")),
        }),
        run: list_limits,
    },
];

fn path(name: &str) -> String {
    format!("/users/{}", segment(name))
}

/// The user as the API shows it.
fn get(call: &Call, name: &str) -> Result<Json, Failure> {
    call.api.get(&path(name)).map_err(|failure| match failure.status() {
        Some(404) => Failure::no_user(name),
        _ => failure.into(),
    })
}

/// The password: an argument, or the first line of what is piped in, which no process list shows.
fn password(call: &Call, index: usize) -> Result<String, Failure> {
    if let Some(password) = call.arguments.get(index) {
        return Ok(password.clone());
    }
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line);
    let line = line.trim_end_matches(['\r', '\n']).to_owned();
    match read {
        Ok(1..) => Ok(line),
        _ => Err(Failure::error(exit::USAGE, "Password is not provided via argument or stdin")),
    }
}

fn credentials(call: &Call) -> Result<Json, Failure> {
    let password = password(call, 1)?;
    Ok(match call.is_said("pre-hashed-password") {
        true => json!({"password_hash": password}),
        // RabbitMQ's way to say that there is none.
        false if password.is_empty() => json!({"password_hash": ""}),
        false => json!({"password": password}),
    })
}

fn add(call: &Call) -> Outcome {
    let name = call.argument(0);
    let mut fields = credentials(call)?;
    match get(call, name) {
        Ok(_) => return Err(Failure::error(exit::SOFTWARE, format!("User \"{name}\" already exists"))),
        Err(failure) if failure.code == exit::NO_USER => {}
        Err(failure) => return Err(failure),
    }
    fields["tags"] = "".into();
    call.api.put(&path(name), &fields)?;
    Ok(Output::Text(format!(
        "Done. Don't forget to grant the user permissions to some virtual hosts! See '{} help set_permissions' to learn \
         more.",
        call.tool
    )))
}

fn delete(call: &Call) -> Outcome {
    match call.api.delete(&path(call.argument(0))) {
        // RabbitMQ's tool does not mind either.
        Err(failure) if failure.status() == Some(404) => Ok(Output::Nothing),
        answer => done(answer),
    }
}

/// Sets some fields of a user and leaves the others as they are.
fn change(call: &Call, fields: &Json) -> Outcome {
    let name = call.argument(0);
    let user = get(call, name)?;
    let mut all = json!({"tags": user["tags"]});
    if fields.get("password").is_none() && fields.get("password_hash").is_none() {
        all["password_hash"] = user["password_hash"].clone();
        all["hashing_algorithm"] = user["hashing_algorithm"].clone();
    }
    for (key, value) in fields.as_object().into_iter().flatten() {
        all[key] = value.clone();
    }
    done(call.api.put(&path(name), &all))
}

fn change_password(call: &Call) -> Outcome {
    change(call, &credentials(call)?)
}

fn clear_password(call: &Call) -> Outcome {
    change(call, &json!({"password_hash": ""}))
}

fn set_tags(call: &Call) -> Outcome {
    change(call, &json!({"tags": call.arguments[1..]}))
}

/// Asks as that user. Who may not use the API has logged in all the same.
fn authenticate(call: &Call) -> Outcome {
    let (name, password) = (call.argument(0), password(call, 1)?);
    match call.api.by(name, &password).get("/whoami") {
        Ok(_) => Ok(Output::Text("Success".to_owned())),
        Err(crate::cli::api::Failure::Refused { status: 401, reason, .. }) if reason == "Not management user" => {
            Ok(Output::Text("Success".to_owned()))
        }
        Err(crate::cli::api::Failure::Refused { status: 401, .. }) => Err(Failure::error(
            exit::DATA,
            format!("Error: failed to authenticate user \"{name}\"\nuser '{name}' - invalid credentials"),
        )),
        Err(failure) => Err(failure.into()),
    }
}

fn list(call: &Call) -> Outcome {
    Ok(Output::Rows(Rows::of(&call.api.get("/users")?, [("user", "name"), ("tags", "tags")])))
}

fn hash_password(call: &Call) -> Outcome {
    Ok(Output::Text(hash(&password(call, 0)?, &Algorithm::Sha256)))
}

fn limits_path(name: &str) -> String {
    format!("/user-limits/{}", segment(name))
}

fn set_limits(call: &Call) -> Outcome {
    let name = call.argument(0);
    let limits = call.json(1)?;
    let Json::Object(limits) = limits else {
        return Err(Failure::error(exit::UNAVAILABLE, "limits are a JSON object, as in {\"max-connections\": 5}"));
    };
    get(call, name)?;
    for (limit, value) in limits {
        call.api.put(&format!("{}/{}", limits_path(name), segment(&limit)), &json!({"value": value}))?;
    }
    Ok(Output::Nothing)
}

fn clear_limits(call: &Call) -> Outcome {
    let name = call.argument(0);
    get(call, name)?;
    let limits = match call.argument(1) {
        "all" => vec!["max-connections", "max-channels"],
        limit => vec![limit],
    };
    for limit in limits {
        match call.api.delete(&format!("{}/{}", limits_path(name), segment(limit))) {
            Err(failure) if failure.status() != Some(404) => return Err(failure.into()),
            _ => {}
        }
    }
    Ok(Output::Nothing)
}

fn list_limits(call: &Call) -> Outcome {
    if call.is_said("global") {
        let all = call.api.get("/user-limits")?;
        return Ok(Output::Rows(Rows::of(&all, [("user", "user"), ("limits", "value")])));
    }
    let user = get(call, call.value("user").unwrap_or("guest"))?;
    let limits = &user["limits"];
    let limits = if limits.as_object().is_some_and(|limits| !limits.is_empty()) { limits.clone() } else { json!({}) };
    Ok(Output::Report(limits.to_string(), limits))
}
