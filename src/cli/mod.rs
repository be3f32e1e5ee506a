//! The command line.
//!
//! `leveret` alone serves. Called by the name of one of RabbitMQ's tools, through a link or as its first argument, it is
//! that tool ([`ctl`], [`admin`]). The flags of `serve` come from the table of settings, so that there is one for each and its
//! help says what the reference says; what they mean is decided in `config`.

mod admin;
mod api;
mod check;
mod ctl;
mod perf;
mod reload;
mod serve;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{Config, EXIT_CONFIG, Sources};
use crate::written::Remark;

/// An AMQP 0-9-1 message broker that RabbitMQ's clients and tools can talk to.
#[derive(Debug, Parser)]
#[command(name = "leveret", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: serve::Arguments,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the broker; the same as no command at all
    Serve(serve::Arguments),
    /// Say what is wrong with settings or definitions, without running anything
    ///
    /// Takes settings (leveret.toml, rabbitmq.conf or a folder of such files) and definitions (JSON or TOML), and
    /// tells which a file is. Every mistake is named with its line. With --against, what definitions would create and
    /// change in a running broker is told too, and what there is in their way; with --apply it is done. Exit code: 0 if all
    /// files are right, 78 if one isn't or something is in its way, 69 if the broker can't be asked.
    Check {
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        #[command(flatten)]
        against: check::Against,
    },
    /// Ask a running broker, and change it, with the verbs of rabbitmqctl and its sisters (see 'leveret ctl help')
    #[command(disable_help_flag = true)]
    Ctl {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "VERB")]
        words: Vec<String>,
    },
    Perf(Box<perf::Perf>),
    /// Let a running broker read its certificates and the level of its logs again
    ///
    /// Nobody is disconnected. It says what was read; if something is wrong, what was there before stays. The user needs
    /// the tag administrator. Exit code: 0 if everything was read, 78 if something is wrong, 77 if the user may not, 69
    /// if nobody is there.
    Reload(api::Target),
}

/// Reads the process's arguments and does what they say. `serve` runs the broker until it's told to stop; the warnings
/// about its configuration are for its log.
pub fn run(serve: fn(Config, Vec<Remark>, Sources) -> ExitCode) -> ExitCode {
    let words: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    if let Some(code) = as_another(&words) {
        return code;
    }
    let words = if name_of(words.first()) == SERVER { vec![SERVER.to_owned()] } else { words };
    let Cli { command, serve: arguments } = Cli::parse_from(words);
    match command.unwrap_or(Command::Serve(arguments)) {
        Command::Serve(arguments) => {
            let sources = arguments.sources();
            match Config::load(&sources) {
                Ok((config, warnings)) => serve(config, warnings, sources),
                Err(remarks) => {
                    eprint!("{remarks}");
                    ExitCode::from(EXIT_CONFIG)
                }
            }
        }
        Command::Check { files, against } => check::run(&files, &against),
        Command::Ctl { words } => ctl::run(ctl::Tool::Ctl, "leveret ctl", &words),
        Command::Perf(perf) => perf::run(&perf),
        Command::Reload(target) => reload::run(&target),
    }
}

/// The name of RabbitMQ's server, whose flags are Erlang's and mean nothing here.
const SERVER: &str = "rabbitmq-server";
const ADMIN: &str = "rabbitmqadmin";

/// The name that a program was called by, without its folder.
fn name_of(path: Option<&String>) -> &str {
    path.and_then(|path| std::path::Path::new(path).file_name()).and_then(|name| name.to_str()).unwrap_or_default()
}

/// Does what a tool of RabbitMQ would, if it is called as one.
fn as_another(words: &[String]) -> Option<ExitCode> {
    let by_link = (name_of(words.first()), words.get(1..).unwrap_or_default());
    let by_word = words.get(1).map(|word| (word.as_str(), words.get(2..).unwrap_or_default()));
    [Some(by_link), by_word].into_iter().flatten().find_map(|(name, rest)| {
        let tool = ctl::Tool::ALL.into_iter().find(|tool| tool.name() == name);
        tool.map(|tool| ctl::run(tool, tool.name(), rest)).or_else(|| (name == ADMIN).then(|| admin::run(rest)))
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::config::SETTINGS;

    fn sources(arguments: &[&str]) -> crate::config::Sources {
        let cli = Cli::try_parse_from(std::iter::once(&"leveret").chain(arguments)).unwrap();
        match cli.command.unwrap_or(Command::Serve(cli.serve)) {
            Command::Serve(arguments) => arguments.sources(),
            Command::Check { .. } | Command::Ctl { .. } | Command::Perf(_) | Command::Reload(_) => panic!("not serve"),
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn no_command_is_serve() {
        for arguments in
            [&["--amqp-port", "0", "--config", "x.toml"][..], &["serve", "--amqp-port=0", "--config=x.toml"]]
        {
            let sources = sources(arguments);
            assert_eq!(sources.flags, [("amqp_port".to_owned(), vec!["0".to_owned()])]);
            assert_eq!(sources.file, Some("x.toml".into()));
        }
    }

    #[test]
    fn lists_may_be_given_piece_by_piece() {
        let flags =
            sources(&["--definitions", "a.json", "--definitions", "b.toml", "--heartbeat", "5", "--heartbeat", "6"])
                .flags;
        let of = |key: &str| flags.iter().find(|(name, _)| name == key).unwrap().1.join(" ");
        assert_eq!(of("definitions"), "a.json b.toml");
        assert_eq!(of("heartbeat"), "6");
    }

    #[test]
    fn every_setting_but_a_secret_has_a_flag_and_its_help() {
        let mut command = Cli::command();
        let serve = command.find_subcommand_mut("serve").unwrap();
        let help = serve.render_long_help().to_string();
        for setting in SETTINGS {
            match setting.flag() {
                Some(flag) => assert!(help.contains(&format!("--{flag} ")), "{flag}"),
                None => assert!(setting.key.contains("pass"), "{}", setting.key),
            }
        }
        assert!(!help.contains("pass "));
    }
}
