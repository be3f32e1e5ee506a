//! The arguments of `serve`.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Args};

use crate::config::{self, Host, Kind, SETTINGS, Setting, Sources};

#[derive(Debug, Default, Args)]
pub struct Arguments {
    /// The file of settings: leveret.toml, a rabbitmq.conf, or a folder of .conf files
    ///
    /// Without it, LEVERET_CONFIG, then RABBITMQ_CONFIG_FILE and RABBITMQ_CONFIG_FILES, then /etc/leveret/leveret.toml
    /// (for root) or ~/.config/leveret/leveret.toml are tried.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: SettingFlags,
}

impl Arguments {
    /// With what the process knows otherwise: its variables, its user and its host.
    pub fn sources(self) -> Sources {
        let uname = rustix::system::uname();
        let name = uname.nodename().to_string_lossy();
        // What is not UTF-8 is neither a name of ours nor a value that any setting takes.
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Sources {
            file: self.config,
            environment: std::env::vars_os().filter_map(text).collect(),
            flags: self.settings.0,
            host: Host {
                // RabbitMQ's node names have the host's short name.
                name: name.split('.').next().unwrap_or_default().to_owned(),
                is_root: rustix::process::geteuid().is_root(),
            },
        }
    }
}

/// A flag for each setting: keys and the values given.
#[derive(Debug, Default)]
struct SettingFlags(Vec<(String, Vec<String>)>);

impl SettingFlags {
    fn arguments() -> impl Iterator<Item = Arg> {
        SETTINGS.iter().filter_map(|setting| {
            let default = match setting.default {
                // On a command line texts have no quotes, and lists no brackets.
                config::Default::Written(value) => value.trim_matches(['[', ']', '"']).to_owned(),
                config::Default::Found { how, .. } => how.replace('`', ""),
            };
            let default = if default.is_empty() { default } else { format!(" [default: {default}]") };
            let about = format!("{}{default}", capitalised(&setting.about.replace('`', "")));
            let list = setting.kind.is_list();
            let argument = Arg::new(setting.key)
                .long(kept(setting.flag()?))
                .value_name(kept(value_name(setting)))
                .action(if list { ArgAction::Append } else { ArgAction::Set })
                .help(about)
                .help_heading("Settings");
            Some(if list { argument } else { argument.overrides_with(setting.key) })
        })
    }
}

impl clap::FromArgMatches for SettingFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = |setting: &Setting| {
            let values = matches.get_many::<String>(setting.key)?;
            Some((setting.key.to_owned(), values.cloned().collect()))
        };
        let flags = SETTINGS.iter().filter(|setting| setting.flag().is_some());
        Ok(Self(flags.filter_map(given).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for SettingFlags {
    fn augment_args(command: clap::Command) -> clap::Command {
        command.args(Self::arguments())
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

/// The parser keeps names for as long as the process lives.
fn kept(text: String) -> &'static str {
    text.leak()
}

fn value_name(setting: &Setting) -> String {
    match setting.kind {
        Kind::Choice(words) => words.join("|"),
        Kind::Bool => "true|false".to_owned(),
        Kind::Bytes { .. } => "BYTES".to_owned(),
        Kind::Share { .. } => "SHARE".to_owned(),
        Kind::Time { .. } => "TIME".to_owned(),
        Kind::Number { .. } => "NUMBER".to_owned(),
        Kind::Path | Kind::Paths => "PATH".to_owned(),
        Kind::Addresses | Kind::Networks => "ADDRESS".to_owned(),
        Kind::Listeners | Kind::Listener => "PORT".to_owned(),
        Kind::Filter => "LEVEL".to_owned(),
        Kind::Words => "WORD".to_owned(),
        Kind::Pairs => "NAME=VALUE".to_owned(),
        Kind::Text | Kind::Secret => "TEXT".to_owned(),
    }
}

fn capitalised(sentence: &str) -> String {
    let mut letters = sentence.chars();
    // Names of things keep their letters: `basic.qos`, `AMQP`.
    match letters.next() {
        Some(first) => first.to_uppercase().chain(letters).collect(),
        None => String::new(),
    }
}
