//! `leveret ctl`, which is also `rabbitmqctl`, `rabbitmq-diagnostics`, `rabbitmq-queues` and `rabbitmq-plugins` if it is called
//! so: their verbs over the management API of a running broker, with their words, their output and their exit codes.
//!
//! One table of verbs ([`Verb`]) says what there is; parsing, help and completions are made from it.

mod access;
pub mod definitions;
mod listings;
mod node;
pub mod output;
mod plugins;
mod queues;
mod users;
pub mod verb;
mod vhosts;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, Command};

use super::api::Target;
use crate::written::nearest;
pub use node::version;
use output::Formatter;
use verb::{Call, Failure, Verb, exit};

/// A program that there is under a name of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    Ctl,
    Diagnostics,
    Queues,
    Plugins,
}

impl Tool {
    pub const ALL: [Self; 4] = [Self::Ctl, Self::Diagnostics, Self::Queues, Self::Plugins];

    pub fn name(self) -> &'static str {
        match self {
            Self::Ctl => "rabbitmqctl",
            Self::Diagnostics => "rabbitmq-diagnostics",
            Self::Queues => "rabbitmq-queues",
            Self::Plugins => "rabbitmq-plugins",
        }
    }

    /// Plugins' verbs are called like nothing else; all other tools share theirs, so that nobody has to know which has what.
    fn verbs(self) -> Vec<&'static Verb> {
        let tables: &[&'static [Verb]] = match self {
            Self::Plugins => &[plugins::VERBS],
            _ => &[
                node::VERBS,
                users::VERBS,
                access::VERBS,
                vhosts::VERBS,
                listings::VERBS,
                queues::VERBS,
                definitions::VERBS,
            ],
        };
        tables.iter().flat_map(|table| table.iter()).collect()
    }
}

/// How much is said beside the result.
const SAID: [(&str, char, &str); 2] =
    [("quiet", 'q', "Say nothing but the result"), ("silent", 's', "The same, without the names of columns")];

/// The arguments that every verb has.
fn common(command: Command) -> Command {
    let value = |name: &'static str, value: &'static str, about: &'static str| {
        Arg::new(name).long(name).value_name(value).help(about).global(true).help_heading("General options")
    };
    let flag = |name: &'static str, about: &'static str| {
        Arg::new(name)
            .long(name)
            .action(ArgAction::SetTrue)
            .help(about)
            .global(true)
            .help_heading("General options")
            .overrides_with(name)
    };
    let mut command = command
        .arg(value("node", "NODE", "The broker by its node's name: its host is asked").short('n'))
        .arg(value("vhost", "VHOST", "The virtual host [default: /]").short('p'))
        .arg(value("timeout", "SECONDS", "How long it may take").short('t'))
        .arg(value("formatter", "NAME", "table, pretty_table, json, csv or erlang"))
        .arg(flag("no-table-headers", "Leave the names of columns out"))
        .arg(flag("longnames", "For compatibility; has no effect").short('l').hide(true))
        .arg(flag("print-stacktrace", "For compatibility; has no effect").hide(true))
        .arg(flag("dry-run", "For compatibility; only says what would be done").hide(true))
        .arg(value("url", "URL", "The management API [default: http://localhost:15672]").env("LEVERET_URL"))
        .arg(value("username", "NAME", "Who asks [default: RABBITMQ_DEFAULT_USER, or guest]").env("LEVERET_USER"))
        .arg(
            value("password", "TEXT", "Their password; variables are better hidden than flags")
                .env("LEVERET_PASSWORD")
                .hide_env_values(true),
        )
        .arg(value("cacert", "FILE", "The authorities to trust for https, PEM").env("LEVERET_CACERT"))
        .arg(value("api-config", "FILE", "A file that says all this, as rabbitmqadmin's").env("RABBITMQADMIN_CONFIG"))
        .arg(value("api-section", "SECTION", "The section of that file"))
        .arg(value("data-dir", "FOLDER", "The broker's data folder: who may read it needs no password"));
    for (name, short, about) in SAID {
        command = command.arg(flag(name, about).short(short));
    }
    command
}

/// The command line of a tool.
pub fn command(tool: Tool, name: &'static str) -> Command {
    let command = Command::new(name)
        .about("What rabbitmqctl and its sisters do, over the management API of a running broker")
        .version(version())
        .disable_help_subcommand(true)
        .subcommand_required(true);
    tool.verbs().into_iter().fold(common(command), |command, verb| command.subcommand(of_verb(verb)))
}

fn of_verb(verb: &Verb) -> Command {
    let mut command = Command::new(verb.name).about(verb.about);
    if !verb.arguments.is_empty() {
        // Counted here and not by the parser, for RabbitMQ's words.
        let arguments = Arg::new("arguments").value_name(verb.arguments).num_args(0..).allow_negative_numbers(true);
        command = command.arg(arguments);
    } else {
        command = command.arg(Arg::new("arguments").num_args(0..).hide(true));
    }
    for switch in verb.switches {
        let mut arg = Arg::new(switch.name).long(switch.name).help(switch.about);
        arg = match switch.value {
            Some(value) => arg.value_name(value).allow_negative_numbers(true),
            None => arg.action(ArgAction::SetTrue),
        };
        command = command.arg(switch.short.map_or(arg.clone(), |short| arg.short(short)));
    }
    command
}

/// Does what the arguments say. `name`: what the tool was called.
pub fn run(tool: Tool, name: &'static str, arguments: &[String]) -> ExitCode {
    let failed = |Failure { code, text }: Failure| {
        if !text.is_empty() {
            eprintln!("{}", text.trim_end_matches('\n'));
        }
        ExitCode::from(code)
    };
    match attempt(tool, name, arguments) {
        Ok(()) => ExitCode::from(exit::OK),
        Err(failure) => failed(failure),
    }
}

fn attempt(tool: Tool, name: &'static str, arguments: &[String]) -> Result<(), Failure> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        [] => return Err(Failure::new(exit::USAGE, overview(tool, name))),
        ["--help" | "-h" | "-?" | "help"] => {
            output::say(&format!("{}\n", overview(tool, name)));
            return Ok(());
        }
        ["help", verb] => return help(tool, name, verb),
        // What scripts look for is which RabbitMQ they have.
        ["--version" | "version"] => {
            output::say(&format!("{}\n", version()));
            return Ok(());
        }
        ["completions", shell] => return completions(tool, name, shell),
        _ => {}
    }
    let parsed = command(tool, name).try_get_matches_from(std::iter::once(&name).chain(&words));
    let matches = match parsed {
        Ok(matches) => matches,
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            output::say(&error.to_string());
            return Ok(());
        }
        Err(error) => return Err(misused(tool, name, &words, &error)),
    };
    let (found, of_verb) = matches.subcommand().ok_or_else(|| Failure::new(exit::USAGE, overview(tool, name)))?;
    let verbs = tool.verbs();
    let verb = verbs.iter().find(|verb| verb.name == found).ok_or_else(|| unknown(tool, name, found))?;
    let given: Vec<String> = of_verb.get_many::<String>("arguments").into_iter().flatten().cloned().collect();
    let (least, most) = verb.arity();
    if given.len() < least || given.len() > most {
        let what = if given.len() < least { "not enough" } else { "too many" };
        return Err(wrong(verb, name, &words, &format!("{what} arguments.")));
    }
    let said = |switch: &str| of_verb.get_one::<String>(switch).cloned();
    let formatter = match said("formatter") {
        None => Formatter::usual(),
        Some(word) => Formatter::parse(&word).ok_or_else(|| {
            let known = Formatter::NAMES.join(", ");
            wrong(verb, name, &words, &format!("there is no formatter '{word}', only {known}"))
        })?,
    };
    let timeout = match said("timeout").as_deref() {
        None | Some("infinity") => None,
        Some(text) => match text.parse() {
            Ok(seconds) => Some(Duration::from_secs(seconds)),
            Err(_) => {
                return Err(wrong(
                    verb,
                    name,
                    &words,
                    &format!("Invalid options for this command:\n--timeout : {text}"),
                ));
            }
        },
    };
    let node = said("node");
    let target = Target {
        url: said("url").or_else(|| url_of(node.as_deref()?)),
        user: said("username"),
        password: said("password"),
        cacert: said("cacert").map(Into::into),
        api_config: said("api-config").map(Into::into),
        api_section: said("api-section").unwrap_or_else(|| "default".to_owned()),
        data_dir: said("data-dir").map(Into::into),
    };
    let api = target.resolve().map_err(|why| Failure::error(exit::CONFIG, why))?;
    let call = Call {
        api: match timeout {
            Some(timeout) => api.with_patience(timeout),
            None => api,
        },
        tool: name,
        node: node.unwrap_or_else(own_node),
        vhost: said("vhost").unwrap_or_else(|| "/".to_owned()),
        arguments: given,
        formatter,
        timeout,
        matches: of_verb.clone(),
    };
    let (is_quiet, is_silent) = (of_verb.get_flag("quiet"), of_verb.get_flag("silent"));
    if !is_quiet
        && !is_silent
        && !formatter.is_for_machines()
        && let Some(banner) = verb.banner
    {
        output::say(&format!("{}\n", banner(&call)));
    }
    if of_verb.get_flag("dry-run") {
        return Ok(());
    }
    let result = (verb.run)(&call)?;
    output::print(&result, formatter, !is_silent && !of_verb.get_flag("no-table-headers"), &call.node);
    Ok(())
}

/// Where the API of a node on another host should be; a node on this one needs no name.
fn url_of(node: &str) -> Option<String> {
    let (_, host) = node.split_once('@')?;
    let own = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let is_own = host == "localhost" || host == own || own.split('.').next() == Some(host);
    (!is_own).then(|| format!("http://{host}:15672"))
}

fn own_node() -> String {
    let own = rustix::system::uname().nodename().to_string_lossy().into_owned();
    std::env::var("RABBITMQ_NODENAME")
        .ok()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| format!("rabbit@{}", own.split('.').next().unwrap_or_default()))
}

/// What was wrong with the arguments, in RabbitMQ's words where it has the same.
fn misused(tool: Tool, name: &str, words: &[&str], error: &clap::Error) -> Failure {
    let verbs = tool.verbs();
    let verb = words.iter().find_map(|word| verbs.iter().find(|verb| verb.name == *word));
    match (error.kind(), verb) {
        (ErrorKind::UnknownArgument, Some(verb)) => {
            let option = error.get(clap::error::ContextKind::InvalidArg).map(ToString::to_string).unwrap_or_default();
            wrong(verb, name, words, &format!("Invalid options for this command:\n{option} : "))
        }
        (_, Some(verb)) => {
            let text = error.to_string();
            wrong(verb, name, words, text.lines().next().unwrap_or_default().trim_start_matches("error: "))
        }
        (_, None) => match words.iter().find(|word| !word.starts_with('-')) {
            Some(word) => unknown(tool, name, word),
            None => Failure::new(exit::USAGE, overview(tool, name)),
        },
    }
}

fn wrong(verb: &Verb, name: &str, words: &[&str], why: &str) -> Failure {
    let given = words.join(" ");
    let usage = usage(verb, name);
    Failure::new(
        exit::USAGE,
        format!("Error (argument validation): {why}\nArguments given:\n\t{given}\n\nUsage\n\n{usage}"),
    )
}

fn usage(verb: &Verb, name: &str) -> String {
    let mut usage = format!("{name} [--node <node>] [--quiet] {}", verb.name);
    for switch in verb.switches {
        usage += &match switch.value {
            Some(value) => format!(" [--{} <{}>]", switch.name, value.to_lowercase()),
            None => format!(" [--{}]", switch.name),
        };
    }
    if !verb.arguments.is_empty() {
        usage += &format!(" {}", verb.arguments);
    }
    usage
}

fn unknown(tool: Tool, name: &str, word: &str) -> Failure {
    let meant = nearest(word, tool.verbs().iter().map(|verb| verb.name));
    let text = match meant {
        Some(meant) => format!("\nCommand '{word}' not found. \nDid you mean '{meant}'? \n"),
        None => format!("\nCommand '{word}' not found. \n{}", overview(tool, name)),
    };
    Failure::new(exit::USAGE, text)
}

/// All verbs, by what they are about.
fn overview(tool: Tool, name: &str) -> String {
    let mut text = format!(
        "\nUsage\n\n{name} [--node <node>] [--timeout <timeout>] [--quiet] <command> [<command options>]\n\nAvailable commands:\n"
    );
    let verbs = tool.verbs();
    let mut groups: Vec<&str> = Vec::new();
    for verb in &verbs {
        if !groups.contains(&verb.group) {
            groups.push(verb.group);
        }
    }
    let width = verbs.iter().map(|verb| verb.name.len()).max().unwrap_or_default();
    for group in groups {
        text += &format!("\n{group}:\n\n");
        let own = verbs.iter().filter(|verb| verb.group == group);
        own.for_each(|verb| text += &format!("   {:width$}  {}\n", verb.name, verb.about));
    }
    text += &format!(
        "\nHelp:\n\n   {:width$}  Explains a command\n   {:width$}  Prints completions for bash, zsh, fish, elvish or powershell\n   {:width$}  Prints the version of this program\n",
        "help", "completions", "version"
    );
    text + &format!("\nUse '{name} help <command>' to learn more about a specific command")
}

fn help(tool: Tool, name: &'static str, word: &str) -> Result<(), Failure> {
    let mut command = command(tool, name);
    command.build();
    let verb = command.find_subcommand_mut(word).ok_or_else(|| unknown(tool, name, word))?;
    let text = if std::io::stdout().is_terminal() {
        verb.render_long_help().ansi().to_string()
    } else {
        verb.render_long_help().to_string()
    };
    output::say(&format!("{text}\n"));
    Ok(())
}

fn completions(tool: Tool, name: &'static str, shell: &str) -> Result<(), Failure> {
    let shell: clap_complete::Shell = shell.parse().map_err(|_| {
        Failure::new(
            exit::USAGE,
            format!("no completions for '{shell}', only for bash, zsh, fish, elvish and powershell"),
        )
    })?;
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command(tool, name), name, &mut script);
    output::say(&String::from_utf8_lossy(&script));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_verbs_is_consistent() {
        for tool in Tool::ALL {
            command(tool, tool.name()).debug_assert();
            let verbs = tool.verbs();
            for (at, verb) in verbs.iter().enumerate() {
                assert!(!verbs[..at].iter().any(|other| other.name == verb.name), "{} is there twice", verb.name);
                assert!(verb.about.starts_with(char::is_uppercase) && !verb.about.ends_with('.'), "{}", verb.name);
            }
        }
    }

    #[test]
    fn arguments_are_counted_by_what_help_says() {
        let arity = |arguments| {
            let verb = Verb { arguments, ..*Tool::Ctl.verbs()[0] };
            verb.arity()
        };
        assert_eq!(arity(""), (0, 0));
        assert_eq!(arity("<user> [<password>]"), (1, 2));
        assert_eq!(arity("[<column>...]"), (0, usize::MAX));
        assert_eq!(arity("<user> [<tag>...]"), (1, usize::MAX));
    }

    #[test]
    fn a_node_elsewhere_is_asked_there() {
        assert_eq!(url_of("rabbit@mq1").as_deref(), Some("http://mq1:15672"));
        assert_eq!(url_of("rabbit@localhost"), None);
        assert_eq!(url_of("rabbit"), None);
    }
}
