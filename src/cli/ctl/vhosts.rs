//! Verbs about virtual hosts, and what is set in them: limits, policies, parameters, tracing.

use serde_json::{Map, Value as Json, json};

use super::output::{Output, Rows};
use super::verb::{Call, Failure, Outcome, Switch, Verb, done, exit};
use crate::cli::api::{self, segment};

const GROUP: &str = "Virtual hosts";
const DESCRIPTION: Switch = Switch::value("description", "TEXT", "What it is for");
const TAGS: Switch = Switch::value("tags", "TAGS", "Tags with commas between them");
const QUEUE_TYPE: Switch = Switch::value("default-queue-type", "TYPE", "Of queues that don't say theirs");
const PROTECTED: Switch = Switch::value("protected-from-deletion", "BOOL", "Whether it can't be deleted");
const PRIORITY: Switch = Switch::value("priority", "NUMBER", "The highest counts; 0 if none is given");
const APPLY_TO: Switch =
    Switch::value("apply-to", "WHAT", "all, queues, classic_queues, quorum_queues, streams or exchanges");
const GLOBAL: Switch = Switch::flag("global", "The limits of all virtual hosts");

/// What `list_vhosts` can show, and where it stands.
const COLUMNS: [&str; 8] = [
    "name",
    "description",
    "tags",
    "default_queue_type",
    "protected_from_deletion",
    "tracing",
    "cluster_state",
    "metadata",
];

pub const VERBS: &[Verb] = &[
    Verb {
        name: "add_vhost",
        arguments: "<vhost>",
        switches: &[DESCRIPTION, TAGS, QUEUE_TYPE, PROTECTED],
        group: GROUP,
        about: "Creates a virtual host",
        banner: Some(|call| format!("Adding vhost \"{}\" ...", call.argument(0))),
        run: add,
    },
    Verb {
        name: "update_vhost_metadata",
        arguments: "<vhost>",
        switches: &[DESCRIPTION, TAGS, QUEUE_TYPE, PROTECTED],
        group: GROUP,
        about: "Changes what is said of a virtual host",
        banner: Some(|call| format!("Updating metadata of vhost \"{}\" ...", call.argument(0))),
        run: update,
    },
    Verb {
        name: "delete_vhost",
        arguments: "<vhost>",
        switches: &[],
        group: GROUP,
        about: "Deletes a virtual host with everything in it",
        banner: Some(|call| format!("Deleting vhost \"{}\" ...", call.argument(0))),
        run: delete,
    },
    Verb {
        name: "list_vhosts",
        arguments: "[<column>...]",
        switches: &[],
        group: GROUP,
        about: "Lists virtual hosts",
        banner: Some(|_| "Listing vhosts ...".to_owned()),
        run: list,
    },
    Verb {
        name: "restart_vhost",
        arguments: "",
        switches: &[],
        group: GROUP,
        about: "Starts a virtual host that has failed, which none does here",
        banner: Some(|call| format!("Trying to restart vhost '{}' ...", call.vhost)),
        run: restart,
    },
    Verb {
        name: "enable_vhost_deletion_protection",
        arguments: "<vhost>",
        switches: &[],
        group: GROUP,
        about: "Protects a virtual host from deletion",
        banner: Some(|call| {
            format!("Protecting virtual host \"{}\" from removal by updating its metadata...", call.argument(0))
        }),
        run: |call| done(protection(call, "POST")),
    },
    Verb {
        name: "disable_vhost_deletion_protection",
        arguments: "<vhost>",
        switches: &[],
        group: GROUP,
        about: "Lifts that protection",
        banner: Some(|call| {
            format!(
                "Removing deletion protection from virtual host \"{}\" by updating its metadata...",
                call.argument(0)
            )
        }),
        run: |call| done(protection(call, "DELETE")),
    },
    Verb {
        name: "set_vhost_limits",
        arguments: "<definition>",
        switches: &[],
        group: GROUP,
        about: "Sets max-connections and max-queues of a virtual host, as JSON",
        banner: Some(|call| {
            format!("Setting vhost limits to \"{}\" for vhost \"{}\" ...", call.argument(0), call.vhost)
        }),
        run: set_limits,
    },
    Verb {
        name: "clear_vhost_limits",
        arguments: "",
        switches: &[],
        group: GROUP,
        about: "Clears the limits of a virtual host",
        banner: Some(|call| format!("Clearing vhost \"{}\" limits ...", call.vhost)),
        run: clear_limits,
    },
    Verb {
        name: "list_vhost_limits",
        arguments: "",
        switches: &[GLOBAL],
        group: GROUP,
        about: "Lists limits of virtual hosts",
        banner: Some(|call| match call.is_said("global") {
            true => "Listing limits for all vhosts ...".to_owned(),
            false => format!("Listing limits for vhost \"{}\" ...", call.vhost),
        }),
        run: list_limits,
    },
    Verb {
        name: "trace_on",
        arguments: "",
        switches: &[],
        group: GROUP,
        about: "Starts the firehose of a virtual host",
        banner: Some(|call| format!("Starting tracing for vhost \"{}\" ...", call.vhost)),
        run: |call| {
            trace(call, true)?;
            Ok(Output::Text(format!("Trace enabled for vhost {}", call.vhost)))
        },
    },
    Verb {
        name: "trace_off",
        arguments: "",
        switches: &[],
        group: GROUP,
        about: "Stops the firehose",
        banner: Some(|call| format!("Stopping tracing for vhost \"{}\" ...", call.vhost)),
        run: |call| {
            trace(call, false)?;
            Ok(Output::Text(format!("Trace disabled for vhost {}", call.vhost)))
        },
    },
    Verb {
        name: "set_policy",
        arguments: "<name> <pattern> <definition>",
        switches: &[PRIORITY, APPLY_TO],
        group: "Policies",
        about: "Sets or changes a policy",
        banner: Some(|call| set_banner(call, "policy")),
        run: |call| set_policy(call, "policies"),
    },
    Verb {
        name: "clear_policy",
        arguments: "<name>",
        switches: &[],
        group: "Policies",
        about: "Takes a policy away",
        banner: Some(|call| format!("Clearing policy \"{}\" on vhost \"{}\" ...", call.argument(0), call.vhost)),
        run: |call| clear_policy(call, "policies"),
    },
    Verb {
        name: "list_policies",
        arguments: "",
        switches: &[],
        group: "Policies",
        about: "Lists the policies of a virtual host",
        banner: Some(|call| format!("Listing policies for vhost \"{}\" ...", call.vhost)),
        run: |call| list_policies(call, "policies"),
    },
    Verb {
        name: "set_operator_policy",
        arguments: "<name> <pattern> <definition>",
        switches: &[PRIORITY, APPLY_TO],
        group: "Policies",
        about: "Sets or changes an operator policy, which limits what users' policies say",
        banner: Some(|call| set_banner(call, "operator policy override")),
        run: |call| set_policy(call, "operator-policies"),
    },
    Verb {
        name: "clear_operator_policy",
        arguments: "<name>",
        switches: &[],
        group: "Policies",
        about: "Takes an operator policy away",
        banner: Some(|call| {
            format!("Clearing operator policy \"{}\" on vhost \"{}\" ...", call.argument(0), call.vhost)
        }),
        run: |call| clear_policy(call, "operator-policies"),
    },
    Verb {
        name: "list_operator_policies",
        arguments: "",
        switches: &[],
        group: "Policies",
        about: "Lists the operator policies of a virtual host",
        banner: Some(|call| format!("Listing operator policy overrides for vhost \"{}\" ...", call.vhost)),
        run: |call| list_policies(call, "operator-policies"),
    },
    Verb {
        name: "set_parameter",
        arguments: "<component> <name> <value>",
        switches: &[],
        group: "Parameters",
        about: "Sets a runtime parameter, as JSON",
        banner: Some(|call| {
            let [component, name, value] = [0, 1, 2].map(|index| call.argument(index));
            format!(
                "Setting runtime parameter \"{name}\" for component \"{component}\" to \"{value}\" in vhost \"{}\" ...",
                call.vhost
            )
        }),
        run: set_parameter,
    },
    Verb {
        name: "clear_parameter",
        arguments: "<component> <name>",
        switches: &[],
        group: "Parameters",
        about: "Takes a runtime parameter away",
        banner: Some(|call| {
            let (component, name) = (call.argument(0), call.argument(1));
            format!(
                "Clearing runtime parameter \"{name}\" for component \"{component}\" on vhost \"{}\" ...",
                call.vhost
            )
        }),
        run: clear_parameter,
    },
    Verb {
        name: "list_parameters",
        arguments: "",
        switches: &[],
        group: "Parameters",
        about: "Lists the runtime parameters of a virtual host",
        banner: Some(|call| format!("Listing runtime parameters for vhost \"{}\" ...", call.vhost)),
        run: list_parameters,
    },
    Verb {
        name: "set_global_parameter",
        arguments: "<name> <value>",
        switches: &[],
        group: "Parameters",
        about: "Sets a runtime parameter of the whole broker, as JSON",
        banner: Some(|call| {
            format!("Setting global runtime parameter \"{}\" to \"{}\" ...", call.argument(0), call.argument(1))
        }),
        run: |call| {
            let path = format!("/global-parameters/{}", segment(call.argument(0)));
            done(call.api.put(&path, &json!({"value": call.json(1)?})))
        },
    },
    Verb {
        name: "clear_global_parameter",
        arguments: "<name>",
        switches: &[],
        group: "Parameters",
        about: "Takes such a parameter away",
        banner: Some(|call| format!("Clearing global runtime parameter \"{}\" ...", call.argument(0))),
        run: |call| cleared(call.api.delete(&format!("/global-parameters/{}", segment(call.argument(0))))),
    },
    Verb {
        name: "list_global_parameters",
        arguments: "",
        switches: &[],
        group: "Parameters",
        about: "Lists the runtime parameters of the whole broker",
        banner: Some(|_| "Listing global runtime parameters ...".to_owned()),
        run: |call| {
            let rows = as_text(&call.api.get("/global-parameters")?, "value");
            Ok(Output::Rows(Rows::of(&rows, [("name", "name"), ("value", "value")])))
        },
    },
];

fn path(name: &str) -> String {
    format!("/vhosts/{}", segment(name))
}

fn no_vhost(name: &str, failure: api::Failure) -> Failure {
    if failure.status() == Some(404) { Failure::no_vhost(name) } else { failure.into() }
}

/// What the switches say of a virtual host.
fn metadata(call: &Call) -> Result<Map<String, Json>, Failure> {
    let mut fields = Map::new();
    for (switch, field) in
        [("description", "description"), ("tags", "tags"), ("default-queue-type", "default_queue_type")]
    {
        if let Some(value) = call.value(switch) {
            fields.insert(field.to_owned(), value.into());
        }
    }
    if let Some(word) = call.value("protected-from-deletion") {
        let truth: bool =
            word.parse().map_err(|_| Failure::error(exit::USAGE, format!("'{word}' is not true or false")))?;
        fields.insert("protected_from_deletion".to_owned(), truth.into());
    }
    Ok(fields)
}

fn add(call: &Call) -> Outcome {
    let name = call.argument(0);
    let fields = metadata(call)?;
    // One that is there stays as it is.
    match call.api.get(&path(name)) {
        Ok(_) => Ok(Output::Nothing),
        Err(failure) if failure.status() == Some(404) => done(call.api.put(&path(name), &Json::Object(fields))),
        Err(failure) => Err(failure.into()),
    }
}

/// What a virtual host is said to be, to be said again with something changed.
fn described(call: &Call, name: &str) -> Result<Map<String, Json>, Failure> {
    let vhost = call.api.get(&path(name)).map_err(|failure| no_vhost(name, failure))?;
    let kept = ["description", "tags", "default_queue_type", "protected_from_deletion"];
    Ok(kept.iter().map(|field| ((*field).to_owned(), vhost[*field].clone())).collect())
}

fn update(call: &Call) -> Outcome {
    let name = call.argument(0);
    let mut fields = described(call, name)?;
    fields.extend(metadata(call)?);
    done(call.api.put(&path(name), &Json::Object(fields)))
}

fn delete(call: &Call) -> Outcome {
    let name = call.argument(0);
    match call.api.delete(&path(name)) {
        Err(failure) if failure.status() == Some(412) => Err(Failure::error(
            exit::DATA,
            "Cannot delete this virtual host: it is protected from deletion. To lift the protection, inspect and update \
             its metadata",
        )),
        answer => done(Ok(answer.map_err(|failure| no_vhost(name, failure))?)),
    }
}

fn list(call: &Call) -> Outcome {
    let wanted: Vec<&str> = call.arguments.iter().map(String::as_str).collect();
    let columns = super::listings::check_columns(call, &wanted, &COLUMNS, &["name"])?;
    Ok(Output::Rows(Rows::of(&call.api.get("/vhosts")?, columns.iter().map(|column| (*column, *column)))))
}

fn restart(call: &Call) -> Outcome {
    call.check_vhost()?;
    Ok(Output::Text(format!("Successfully restarted vhost '{}' on node '{}'", call.vhost, call.node)))
}

fn protection(call: &Call, method: &str) -> Result<Json, api::Failure> {
    call.api.call(method, &format!("{}/deletion/protection", path(call.argument(0))), api::Body::Json(&json!({})))
}

fn set_limits(call: &Call) -> Outcome {
    call.check_vhost()?;
    let Json::Object(limits) = call.json(0)? else {
        return Err(Failure::error(exit::UNAVAILABLE, "limits are a JSON object, as in {\"max-queues\": 5}"));
    };
    for (limit, value) in limits {
        let path = format!("/vhost-limits/{}/{}", call.vhost_segment(), segment(&limit));
        call.api.put(&path, &json!({"value": value}))?;
    }
    Ok(Output::Nothing)
}

fn clear_limits(call: &Call) -> Outcome {
    call.check_vhost()?;
    for limit in ["max-connections", "max-queues"] {
        match call.api.delete(&format!("/vhost-limits/{}/{limit}", call.vhost_segment())) {
            Err(failure) if failure.status() != Some(404) => return Err(failure.into()),
            _ => {}
        }
    }
    Ok(Output::Nothing)
}

fn list_limits(call: &Call) -> Outcome {
    if call.is_said("global") {
        let all = call.api.get("/vhost-limits")?;
        return Ok(Output::Rows(Rows::of(&all, [("vhost", "vhost"), ("limits", "value")])));
    }
    call.check_vhost()?;
    let own = call.api.get(&format!("/vhost-limits/{}", call.vhost_segment()))?;
    let limits = own.get(0).map_or_else(|| json!({}), |row| row["value"].clone());
    Ok(Output::Report(limits.to_string(), limits))
}

fn trace(call: &Call, is_on: bool) -> Result<(), Failure> {
    let mut fields = described(call, &call.vhost)?;
    fields.insert("tracing".to_owned(), is_on.into());
    call.api.put(&path(&call.vhost), &Json::Object(fields))?;
    Ok(())
}

fn set_banner(call: &Call, what: &str) -> String {
    let [name, pattern, definition] = [0, 1, 2].map(|index| call.argument(index));
    let priority = call.value("priority").unwrap_or("0");
    format!(
        "Setting {what} \"{name}\" for pattern \"{pattern}\" to \"{definition}\" with priority \"{priority}\" for vhost \
         \"{}\" ...",
        call.vhost
    )
}

fn set_policy(call: &Call, kind: &str) -> Outcome {
    let definition = call.json(2)?;
    let priority = call.value("priority").unwrap_or("0");
    let priority: i64 =
        priority.parse().map_err(|_| Failure::error(exit::UNAVAILABLE, format!("'{priority}' is no number")))?;
    call.check_vhost()?;
    let fields = json!({
        "pattern": call.argument(1),
        "definition": definition,
        "priority": priority,
        "apply-to": call.value("apply-to").unwrap_or("all"),
    });
    done(call.api.put(&format!("/{kind}/{}/{}", call.vhost_segment(), segment(call.argument(0))), &fields))
}

/// RabbitMQ calls policies so too.
fn cleared(answer: Result<Json, api::Failure>) -> Outcome {
    match answer {
        Err(failure) if failure.status() == Some(404) => {
            Err(Failure::error(exit::UNAVAILABLE, "Parameter does not exist"))
        }
        answer => done(answer),
    }
}

fn clear_policy(call: &Call, kind: &str) -> Outcome {
    call.check_vhost()?;
    cleared(call.api.delete(&format!("/{kind}/{}/{}", call.vhost_segment(), segment(call.argument(0)))))
}

/// A field of each row as its JSON, as RabbitMQ's tool prints it.
fn as_text(rows: &Json, field: &str) -> Json {
    let mut rows = rows.clone();
    for row in rows.as_array_mut().into_iter().flatten() {
        row[field] = row[field].to_string().into();
    }
    rows
}

fn list_policies(call: &Call, kind: &str) -> Outcome {
    call.check_vhost()?;
    let rows = as_text(&call.api.get(&format!("/{kind}/{}", call.vhost_segment()))?, "definition");
    let columns = ["vhost", "name", "pattern", "apply-to", "definition", "priority"];
    Ok(Output::Rows(Rows::of(&rows, columns.map(|column| (column, column)))))
}

fn parameter_path(call: &Call) -> String {
    format!("/parameters/{}/{}/{}", segment(call.argument(0)), call.vhost_segment(), segment(call.argument(1)))
}

fn set_parameter(call: &Call) -> Outcome {
    let value = call.json(2)?;
    call.check_vhost()?;
    done(call.api.put(&parameter_path(call), &json!({"value": value})))
}

fn clear_parameter(call: &Call) -> Outcome {
    call.check_vhost()?;
    cleared(call.api.delete(&parameter_path(call)))
}

fn list_parameters(call: &Call) -> Outcome {
    call.check_vhost()?;
    let mut rows = call.api.get("/parameters")?;
    if let Some(rows) = rows.as_array_mut() {
        rows.retain(|row| row["vhost"] == call.vhost.as_str() && row["component"] != "operator_policy");
    }
    let rows = as_text(&rows, "value");
    Ok(Output::Rows(Rows::of(&rows, [("component", "component"), ("name", "name"), ("value", "value")])))
}
