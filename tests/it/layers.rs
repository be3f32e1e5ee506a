//! Who may know whom. The picture stands in src/lib.rs; this is the table, and src/ is held against it.

use std::fs;
use std::path::{Path, PathBuf};

/// A room, the rooms it may use, and why where that is not plain from the picture. A room is a module, or a part of one
/// written `module::part`, which then has rules of its own. To use a module is to use all its parts.
const TABLE: &[(&str, &[&str], &str)] = &[
    // Processes and sockets.
    ("main", &["cli", "server"], "the command line is given what serving is, so that it need not know it"),
    (
        "cli",
        &["server", "http", "broker", "definitions", "config", "telemetry", "store", "written", "amqp", "auth"],
        "its load generator is an AMQP client, on the broker's own codec; its tools hash passwords",
    ),
    (
        "server",
        &[
            "connection",
            "http",
            "transport",
            "admission",
            "broker",
            "definitions",
            "config",
            "telemetry",
            "written",
            "store",
        ],
        "each of the store's reasons not to open is an exit code; warnings about settings go to the log",
    ),
    ("admission", &["pace"], "a guest is handed from the accepting server to its connection"),
    // The AMQP door.
    (
        "connection",
        &[
            "admission",
            "pace",
            "channel",
            "transport",
            "broker",
            "vhost",
            "queue::consumer",
            "queue::classic",
            "auth",
            "refusal",
            "amqp",
            "config",
            "telemetry",
            "clock",
        ],
        "it carries out what its queues decided, and its egress is what they deliver to",
    ),
    (
        "channel",
        &[
            "metrics",
            "transport",
            "vhost",
            "exchange",
            "queue",
            "message",
            "auth",
            "policy",
            "refusal",
            "declaration",
            "amqp",
            "telemetry",
            "store::Committed",
        ],
        "declarations name exchange types; a declaration's answer waits for its commit; its egress writes sockets",
    ),
    // Below both doors.
    (
        "transport",
        &["config", "telemetry", "auth::Secret"],
        "certificates and limits are settings; keys have passwords",
    ),
    // The HTTP door.
    (
        "http",
        &[
            "metrics",
            "transport",
            "vhost",
            "broker",
            "queue",
            "message",
            "exchange",
            "definitions",
            "policy",
            "auth",
            "refusal",
            "declaration",
            "amqp",
            "config",
            "telemetry",
            "written",
            "clock",
            "transport",
            "store::Committed",
        ],
        "an answer waits for its commit; messages are shown",
    ),
    // The house.
    (
        "broker",
        &[
            "metrics",
            "vhost",
            "queue",
            "exchange",
            "policy",
            "auth",
            "refusal",
            "declaration",
            "definitions",
            "store",
            "config",
            "telemetry",
            "clock",
            "amqp",
            "written",
        ],
        "it loads definitions at start; a message's limits are settings, handed to queues",
    ),
    (
        "vhost",
        &[
            "metrics",
            "exchange",
            "queue",
            "policy",
            "auth",
            "message",
            "refusal",
            "declaration",
            "store",
            "amqp",
            "telemetry",
            "clock",
        ],
        "",
    ),
    ("exchange", &["declaration", "refusal", "message", "amqp"], ""),
    ("queue", &["queue"], "the module's own file names its parts"),
    (
        "queue::classic",
        &["queue", "message", "metrics", "store", "telemetry", "clock", "amqp", "refusal"],
        "the shell: it alone in a queue knows the store",
    ),
    ("queue::rows", &["store::Recovered"], "it reads what the store found of a queue, and touches no store"),
    (
        "queue::state",
        &["queue", "message", "metrics::Ends", "amqp::properties"],
        "a message says its own time to live and priority; how messages ended is gathered as it is counted",
    ),
    ("queue::log", &["queue", "message"], "the log is runs"),
    ("queue::timer", &["queue", "clock"], "it wakes queues"),
    ("queue::dead_letter", &["message", "amqp", "queue"], ""),
    ("queue::delay", &["amqp"], ""),
    ("queue::settings", &["amqp", "refusal", "declaration", "policy"], ""),
    ("queue::consumer", &["queue", "message"], ""),
    ("queue::ranges", &[], ""),
    ("policy", &["amqp", "refusal", "declaration", "auth", "queue::settings"], ""),
    ("auth", &["amqp", "refusal"], ""),
    ("declaration", &["amqp", "refusal"], "what is asked for, whichever door it came by"),
    ("message", &["amqp"], ""),
    ("refusal", &["amqp"], "each reason has its reply code"),
    // The cellar.
    ("store", &["message", "metrics", "amqp", "telemetry"], ""),
    // The wire.
    ("amqp", &[], ""),
    // What people write.
    (
        "definitions",
        &[
            "broker",
            "vhost",
            "exchange",
            "queue::settings",
            "policy",
            "auth",
            "refusal",
            "declaration",
            "amqp",
            "written",
            "store",
        ],
        "trees with lines are how its files are read; records without an effect yet are kept as rows of the store",
    ),
    ("config", &["written", "auth"], "the default user has a password and permissions"),
    ("written", &[], ""),
    ("telemetry", &["config", "clock"], "how a log line looks is a setting"),
    ("metrics", &[], ""),
    ("clock", &[], ""),
    ("pace", &[], ""),
];

/// Parts that decide and do not act: no task, no clock, no lock, no disk.
const PURE: &[&str] = &[
    "queue::state",
    "queue::dead_letter",
    "queue::delay",
    "queue::settings",
    "queue::ranges",
    "exchange",
    "message",
    "amqp",
    "policy",
    "declaration",
    "pace",
];
const ACTIONS: &[&str] = &[
    "tokio",
    "rocksdb",
    "parking_lot",
    "async fn",
    ".await",
    "SystemTime",
    "Instant::now",
    "getrandom",
    "std::fs",
    "std::net",
];

#[test]
fn every_module_uses_only_what_the_table_allows() {
    let mut violations = Vec::new();
    for source in sources() {
        let Some(allowed) = allowed(&source.room) else {
            violations.push(format!("{}: the room {} is not in the table", source.path.display(), source.room));
            continue;
        };
        for (line, used) in &source.uses {
            let (module, _) = used.split_once("::").unwrap_or((used, ""));
            let own = source.room.split("::").next() == Some(module) && !source.room.contains("::");
            let found = allowed
                .iter()
                .any(|allowed| *allowed == module || *used == *allowed || used.starts_with(&format!("{allowed}::")));
            if !own && !found {
                violations.push(format!("{}:{line}: {} uses {used}", source.path.display(), source.room));
            }
        }
    }
    assert!(violations.is_empty(), "{}", violations.join("\n"));
}

#[test]
fn only_the_store_names_rocksdb() {
    for source in sources() {
        if source.room != "store" {
            for (at, line) in source.code.iter().enumerate() {
                assert!(!line.contains("rocksdb::"), "{}:{}: {line}", source.path.display(), at + 1);
            }
        }
    }
}

#[test]
fn what_decides_does_not_act() {
    for source in sources() {
        if PURE.iter().any(|pure| source.room == *pure) {
            for (at, line) in source.code.iter().enumerate() {
                // A moment is a plain value.
                let line = line.replace("tokio::time::{Duration, Instant}", "");
                for action in ACTIONS {
                    assert!(!line.contains(action), "{}:{}: {action}: {line}", source.path.display(), at + 1);
                }
            }
        }
    }
}

#[test]
fn nobody_below_calls_upward() {
    // The table itself has no loop among the layers that the picture draws one above the other.
    let order =
        ["cli", "server", "connection", "channel", "broker", "vhost", "queue::classic", "store", "message", "amqp"];
    for (at, lower) in order.iter().enumerate() {
        for upper in &order[..at] {
            assert!(!allowed(lower).unwrap().contains(upper), "{lower} may use {upper}");
        }
    }
}

#[test]
fn uses_are_found_wherever_they_stand() {
    let text = "use crate::amqp::{self, Table};\nuse crate::{queue::state::Window, store};\n// crate::http\nlet x = crate::vhost::name();\n\
                #[cfg(test)]\nuse crate::server;\n#[cfg(test)]\nmod tests {\nuse crate::cli;\n}\nuse crate::clock;";
    let found: Vec<(usize, String)> = uses(&code(text));
    let expected = [(1, "amqp"), (2, "queue::state"), (2, "store"), (4, "vhost::name"), (11, "clock")];
    assert_eq!(found, expected.map(|(line, used)| (line, used.to_owned())));
}

fn allowed(room: &str) -> Option<&'static [&'static str]> {
    TABLE.iter().find(|(name, _, _)| *name == room).map(|(_, allowed, _)| *allowed)
}

/// A source file without comments and without its tests.
struct Source {
    path: PathBuf,
    room: String,
    code: Vec<String>,
    /// Line, and module with at most one part: `queue::classic`.
    uses: Vec<(usize, String)>,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let inside = path.strip_prefix(&root).unwrap().with_extension("");
            let mut names: Vec<&str> = inside.iter().map(|name| name.to_str().unwrap()).collect();
            // lib.rs is the list of modules, and tests may look at whatever they like.
            let is_test = names[0] == "simulation" || ["tests", "simulated"].contains(&names[names.len() - 1]);
            if path.extension().is_none_or(|kind| kind != "rs") || names == ["lib"] || is_test {
                continue;
            }
            names.retain(|name| *name != "mod");
            let part = names[..names.len().min(2)].join("::");
            let room = if allowed(&part).is_some() { part } else { names[0].to_owned() };
            let code = code(&fs::read_to_string(&path).unwrap());
            sources.push(Source { uses: uses(&code), path, room, code });
        }
    }
    assert!(sources.len() > 20, "src/ was not found");
    sources
}

/// Its lines without comments; those of what is there for tests only are empty.
fn code(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    // How deep in braces of something for tests.
    let mut skipping: Option<i32> = None;
    for line in text.lines() {
        let line = line.split("//").next().unwrap_or_default();
        let Some(depth) = &mut skipping else {
            let is_test = line.starts_with("#[cfg(test)]");
            skipping = is_test.then_some(0);
            lines.push(if is_test { String::new() } else { line.to_owned() });
            continue;
        };
        let count = |letter| i32::try_from(line.matches(letter).count()).unwrap();
        *depth += count('{') - count('}');
        if *depth == 0 && (line.ends_with(';') || line.ends_with('}')) {
            skipping = None;
        }
        lines.push(String::new());
    }
    lines
}

fn uses(code: &[String]) -> Vec<(usize, String)> {
    let mut uses = Vec::new();
    for (at, line) in code.iter().enumerate() {
        for marker in ["crate::", "leveret::"] {
            for (found, _) in line.match_indices(marker) {
                let before = line[..found].chars().next_back();
                if before
                    .is_some_and(|letter| letter.is_alphanumeric() || letter == '_' || letter == ':' || letter == '"')
                {
                    continue;
                }
                let rest = &line[found + marker.len()..];
                match rest.strip_prefix('{') {
                    Some(group) => uses.extend(members(group).into_iter().map(|used| (at + 1, used))),
                    None => uses.extend(used(rest).map(|used| (at + 1, used))),
                }
            }
        }
    }
    uses
}

/// The members of `{a, b::c, d::{e}}` on one line.
fn members(group: &str) -> Vec<String> {
    let mut depth = 0;
    let mut members = vec![String::new()];
    for letter in group.chars() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => members.push(String::new()),
            _ if depth == 0 => members.last_mut().unwrap().push(letter),
            _ => {}
        }
    }
    members.iter().filter_map(|member| used(member.trim())).collect()
}

/// `queue::classic` from `queue::classic::Acts;`.
fn used(path: &str) -> Option<String> {
    let mut parts = path
        .split("::")
        .map(|part| part.split(|letter: char| !letter.is_alphanumeric() && letter != '_').next().unwrap_or_default());
    let module = parts.next().filter(|module| !module.is_empty())?;
    let whole = path.split("::").next() == Some(module);
    let part = parts.next().filter(|part| whole && !part.is_empty() && *part != "self");
    Some(match part {
        Some(part) => format!("{module}::{part}"),
        None => module.to_owned(),
    })
}
