use std::fs;
use std::path::{Path, PathBuf};

use super::environment::Environment;
use super::layers::Layers;
use super::meaning::{self, Config};
use super::rabbitmq_conf::{self, Lines};
use super::settings::{Default, Kind, SETTINGS, Setting};
use super::toml_file;
use crate::written::{Place, Remark, Remarks, Tree};

/// Everything a configuration is made from, apart from the files it names.
#[derive(std::default::Default)]
pub struct Sources {
    /// The file named on the command line: `.toml`, `.conf` in RabbitMQ's format, or a folder of `.conf` files.
    pub file: Option<PathBuf>,
    /// Variables and their values.
    pub environment: Vec<(String, String)>,
    /// Keys of settings and the values given for them on the command line.
    pub flags: Vec<(String, Vec<String>)>,
    pub host: Host,
}

/// Where the broker was started.
#[derive(Debug, Clone, std::default::Default)]
pub struct Host {
    pub name: String,
    /// The user may write where system services do.
    pub is_root: bool,
}

impl Config {
    /// The configuration that the sources mean, and what in them was left aside; or everything that is wrong with
    /// them.
    pub fn load(sources: &Sources) -> Result<(Self, Vec<Remark>), Remarks> {
        let mut remarks = Remarks::default();
        let layers = sources.layers(&mut remarks);
        let config = meaning::resolve(&layers, sources, &mut remarks);
        remarks.into_result(config)
    }
}

/// A setting as it counts, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    pub key: &'static str,
    /// As it was written; `None`: it is a secret.
    pub value: Option<String>,
    /// Where that was; `None`: nowhere, and it is the default.
    pub place: Option<Place>,
}

impl Sources {
    /// Every setting, as these sources say it now.
    pub fn effective(&self) -> Vec<Effective> {
        let layers = self.layers(&mut Remarks::default());
        let shown = |setting: &'static Setting| {
            let written = layers.get(setting.key);
            let value = match (written.map(|written| &written.value), setting.default) {
                (Some(Tree::Text(text)), _) => text.clone(),
                (Some(value), _) => value.to_json().to_string(),
                (None, Default::Written(value)) => value.trim_matches('"').to_owned(),
                (None, Default::Found { how, .. }) => how.replace('`', ""),
            };
            let is_secret = matches!(setting.kind, Kind::Secret);
            let place = written.map(|written| written.place.clone());
            Effective { key: setting.key, value: (!is_secret).then_some(value), place }
        };
        SETTINGS.iter().map(shown).collect()
    }

    fn layers(&self, remarks: &mut Remarks) -> Layers {
        let environment = Environment::of(&self.environment);
        let mut layers = Layers::default();
        let mut conf = Lines::default();
        for (path, must_exist) in self.files(&environment) {
            read_file(&path, must_exist, &environment, &mut conf, &mut layers, remarks);
        }
        rabbitmq_conf::apply(conf, &mut layers, remarks);
        environment.apply(&mut layers, remarks);
        self.apply_flags(&mut layers, remarks);
        layers
    }

    /// The files to read, in order, and whether it is a mistake if one isn't there.
    ///
    /// The first that is said counts: the command line, `LEVERET_CONFIG`, RabbitMQ's variables, the usual place.
    fn files(&self, environment: &Environment) -> Vec<(PathBuf, bool)> {
        if let Some(path) = &self.file {
            return vec![(path.clone(), true)];
        }
        if let Some(path) = environment.get("LEVERET_CONFIG") {
            return vec![(path.into(), true)];
        }
        let mut files = Vec::new();
        if let Some(path) = environment.get("RABBITMQ_CONFIG_FILE") {
            // RabbitMQ adds the extension if it's missing.
            let named = Path::new(path);
            let path = if named.extension().is_some() { path.to_owned() } else { format!("{path}.conf") };
            files.push((path.into(), false));
        }
        if let Some(path) = environment.get("RABBITMQ_CONFIG_FILES") {
            files.push((path.into(), false));
        }
        if files.is_empty() {
            files.extend(self.usual_file(environment).map(|path| (path, false)));
        }
        files
    }

    fn usual_file(&self, environment: &Environment) -> Option<PathBuf> {
        if self.host.is_root {
            return Some("/etc/leveret/leveret.toml".into());
        }
        let home = environment.get("HOME").map(|home| Path::new(home).join(".config"));
        let folder = environment.get("XDG_CONFIG_HOME").map(PathBuf::from).or(home);
        folder.map(|folder| folder.join("leveret/leveret.toml"))
    }

    /// Where data lies when nobody says: where a system service keeps it, or in the home of whoever started the
    /// broker.
    pub(super) fn default_data_dir(&self) -> PathBuf {
        if self.host.is_root {
            return "/var/lib/leveret".into();
        }
        let environment = Environment::of(&self.environment);
        // The XDG specification: a relative path is to be ignored.
        let data = environment.get("XDG_DATA_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        let home = environment.get("HOME").map(|home| Path::new(home).join(".local/share"));
        data.or(home).map_or_else(|| "leveret-data".into(), |folder| folder.join("leveret"))
    }

    fn apply_flags(&self, layers: &mut Layers, remarks: &mut Remarks) {
        for (key, values) in &self.flags {
            let Some(setting) = Setting::of(key) else {
                remarks.mistake(Place::CommandLine, key, "unknown setting");
                continue;
            };
            let name = format!("--{}", setting.flag().unwrap_or_default());
            layers.set(setting, Tree::Text(values.join(",")), Place::CommandLine, name);
        }
    }
}

/// Reads one file, or the `.conf` files of a folder in the order of their names, as RabbitMQ does with `conf.d`.
fn read_file(
    path: &Path,
    must_exist: bool,
    environment: &Environment,
    conf: &mut Lines,
    layers: &mut Layers,
    remarks: &mut Remarks,
) {
    if path.is_dir() {
        match conf_files(path) {
            Ok(files) => {
                for file in files {
                    read_file(&file, true, environment, conf, layers, remarks);
                }
            }
            Err(error) => remarks.mistake(Place::whole_file(path), "", format!("can't be read: {error}")),
        }
        return;
    }
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !must_exist => return,
        Err(error) => {
            return remarks.mistake(Place::whole_file(path), "", format!("can't be read: {error}"));
        }
    };
    layers.files.push(path.to_owned());
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("toml") => toml_file::read(text, path, layers, remarks),
        Some("conf") => rabbitmq_conf::read(text, path, environment, conf, remarks),
        Some("config") => {
            let what = "is in RabbitMQ's Erlang format, which is not understood; write a .conf or a .toml file";
            remarks.mistake(Place::whole_file(path), "", what);
        }
        _ => remarks.mistake(Place::whole_file(path), "", "settings are read from .toml and .conf files"),
    }
}

fn conf_files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "conf") && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
