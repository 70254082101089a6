//! `--config file.yaml`: every flag of a command may stand in a file under its own name.
//!
//! The file's values become the flags' defaults, so a flag goes before its environment variable, that before the file,
//! and the file before the built-in default. Each value is checked alone first, so that an error names file and field.

use std::{ffi::OsString, path::Path};

use clap::{
    Arg, ArgAction, ArgMatches, Command,
    builder::OsStr,
    error::{ContextKind, ContextValue, ErrorKind},
};
use serde_json::{Map, Value};

use crate::{
    exit::{Exit, Failure},
    suggest,
};

/// The flag that names the file.
const CONFIG: &str = "config";

/// Largest configuration file in bytes: a thousand services fit many times.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// Parses the command line, with the configuration file it names laid below flags and environment.
pub fn parse(command: Command, args: &[OsString]) -> Result<ArgMatches, ParseError> {
    let Some((path, file)) = named_file(&command, args) else {
        return Ok(command.try_get_matches_from(args)?);
    };
    let known = command
        .find_subcommand(&path)
        .map(settable)
        .unwrap_or_default();
    let fields = read(Path::new(&file), &known)?;
    let command = command.mut_subcommand(path, |sub| {
        fields.into_iter().fold(sub, |sub, (id, values)| {
            sub.mut_arg(id, |arg| arg.required(false).default_values(values))
        })
    });
    Ok(command.try_get_matches_from(args)?)
}

/// Why a command line was not understood.
#[derive(Debug)]
pub enum ParseError {
    /// By clap, which also asks for help and version this way.
    Clap(Box<clap::Error>),
    /// The configuration file is wrong.
    File(Failure),
}

impl From<clap::Error> for ParseError {
    fn from(e: clap::Error) -> Self {
        Self::Clap(Box::new(e))
    }
}

impl From<Failure> for ParseError {
    fn from(f: Failure) -> Self {
        Self::File(f)
    }
}

/// The subcommand and the file it is told to read. Whatever else is wrong is left for the real parse.
fn named_file(command: &Command, args: &[OsString]) -> Option<(String, OsString)> {
    let lenient = command.clone().ignore_errors(true);
    let matches = lenient.try_get_matches_from(args).ok()?;
    let (name, matches) = matches.subcommand()?;
    let file = matches.try_get_one::<std::path::PathBuf>(CONFIG).ok()??;
    Some((name.to_owned(), file.clone().into_os_string()))
}

/// The flags that a file may set.
fn settable(command: &Command) -> Vec<Arg> {
    let skip =
        |arg: &&Arg| arg.get_id() != CONFIG && !arg.is_hide_set() && arg.get_long().is_some();
    command.get_arguments().filter(skip).cloned().collect()
}

type Fields = Vec<(clap::Id, Vec<OsStr>)>;

fn read(path: &Path, known: &[Arg]) -> Result<Fields, Failure> {
    let shown = path.display();
    let text = std::fs::metadata(path)
        .and_then(|meta| {
            if meta.len() > MAX_CONFIG_BYTES {
                return Err(std::io::Error::other(format!(
                    "it is larger than {MAX_CONFIG_BYTES} bytes"
                )));
            }
            std::fs::read_to_string(path)
        })
        .map_err(|e| {
            Failure::usage(format!(
                "failed to read the configuration file {shown}: {e}"
            ))
            .hint("give the path of a YAML file with --config")
        })?;
    // An empty file, or one of comments alone, sets nothing.
    let object: Option<Map<String, Value>> = serde_saphyr::from_str(&text).map_err(|e| {
        Failure::usage(format!(
            "the configuration file {shown} is no valid YAML: {}",
            first_line(&e)
        ))
        .hint("expected `flag-name: value` lines, such as `listen: 127.0.0.1:15443`")
    })?;
    let mut fields = Fields::new();
    for (name, value) in object.unwrap_or_default() {
        let arg = find(known, &name, path)?;
        let values = values(&value, arg).map_err(|expected| {
            Failure::usage(format!(
                "field `{name}` in {shown} is not usable: expected {expected}"
            ))
            .hint(what_it_takes(arg))
        })?;
        check(arg, &values).map_err(|why| {
            Failure::usage(format!("field `{name}` in {shown} is not usable: {why}"))
                .hint(what_it_takes(arg))
        })?;
        fields.push((
            arg.get_id().clone(),
            values.into_iter().map(Into::into).collect(),
        ));
    }
    Ok(fields)
}

/// What a flag takes, as its help says it.
fn what_it_takes(arg: &Arg) -> String {
    let name = arg.get_long().unwrap_or_default();
    match arg.get_value_names() {
        Some([value, ..]) => format!("`{name}` takes {value}, as the flag --{name} does"),
        _ => format!("`{name}` takes true or false"),
    }
}

/// The parser's message without the excerpt that it draws below.
fn first_line(e: &dyn std::fmt::Display) -> String {
    e.to_string()
        .lines()
        .next()
        .unwrap_or_default()
        .trim_start_matches("error: ")
        .to_owned()
}

fn find<'a>(known: &'a [Arg], name: &str, path: &Path) -> Result<&'a Arg, Failure> {
    let long = |arg: &'a Arg| arg.get_long().map(|long| (long, arg));
    if let Some((_, arg)) = known
        .iter()
        .filter_map(long)
        .find(|(long, _)| *long == name)
    {
        return Ok(arg);
    }
    let names: Vec<&str> = known
        .iter()
        .filter_map(long)
        .map(|(long, _)| long)
        .collect();
    let failure = Failure::usage(format!("unknown field `{name}` in {}", path.display()));
    Err(match suggest::nearest(name, names.iter().copied()) {
        Some(near) => failure.hint(format!("did you mean `{near}`?")),
        None => failure.hint(format!("known fields: {}", names.join(", "))),
    })
}

fn values(value: &Value, arg: &Arg) -> Result<Vec<String>, &'static str> {
    let scalar = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(yes) => Some(yes.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    };
    match (value, arg.get_action()) {
        (Value::Bool(yes), ArgAction::SetTrue) => Ok(vec![yes.to_string()]),
        (_, ArgAction::SetTrue) => Err("true or false"),
        (Value::Array(items), ArgAction::Append) => items
            .iter()
            .map(scalar)
            .collect::<Option<_>>()
            .ok_or("a list of plain values"),
        (value, _) => Ok(vec![scalar(value).ok_or("one plain value")?]),
    }
}

/// Has clap check the values alone.
fn check(arg: &Arg, values: &[String]) -> Result<(), String> {
    if matches!(arg.get_action(), ArgAction::SetTrue) {
        return Ok(());
    }
    let Some(long) = arg.get_long() else {
        return Ok(());
    };
    let alone = Command::new("file").no_binary_name(true).arg(alone(arg));
    let args = values.iter().map(|value| format!("--{long}={value}"));
    let Err(e) = alone.try_get_matches_from(args) else {
        return Ok(());
    };
    // `Error::source` carries what the value's own parser said.
    let why = std::error::Error::source(&e).map(ToString::to_string);
    let value = match e.get(ContextKind::InvalidValue) {
        Some(ContextValue::String(value)) => value.clone(),
        _ => values.join(", "),
    };
    let valid = match e.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(valid)) => Some(format!("expected one of {}", valid.join(", "))),
        _ => None,
    };
    Err(format!(
        "{value:?}: {}",
        why.or(valid).unwrap_or_else(|| first_line(&e))
    ))
}

/// The argument without its ties to others and without its environment variable.
fn alone(arg: &Arg) -> Arg {
    let mut alone = Arg::new(arg.get_id().clone())
        .action(arg.get_action().clone())
        .value_parser(arg.get_value_parser().clone());
    if let Some(long) = arg.get_long() {
        alone = alone.long(long.to_owned());
    }
    match arg.get_value_delimiter() {
        Some(delimiter) => alone.value_delimiter(delimiter),
        None => alone,
    }
}

fn is_help(e: &clap::Error) -> bool {
    e.exit_code() == 0 || e.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
}

/// What to print for a parse error: clap's own text for help and version, else our failure.
pub fn explain(error: ParseError) -> Result<clap::Error, Failure> {
    match error {
        ParseError::File(failure) => Err(failure),
        ParseError::Clap(e) if is_help(&e) => Ok(*e),
        ParseError::Clap(e) => {
            let text = e.render().to_string();
            let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
            let mut what = lines
                .next()
                .unwrap_or_default()
                .trim_start_matches("error: ")
                .to_owned();
            let mut hints = Vec::new();
            for line in lines {
                if let Some(tip) = line.strip_prefix("tip: ") {
                    hints.push(tip.to_owned());
                } else if let Some(usage) = line.strip_prefix("Usage: ") {
                    hints.push(format!("usage: {usage}"));
                } else if line.starts_with("For more information") {
                    // Our own hint says so.
                } else if what.ends_with(':') || what.ends_with('>') {
                    // A list that the first line announces.
                    what = format!("{what} {line}");
                } else {
                    hints.push(line.to_owned());
                }
            }
            let failure = hints
                .into_iter()
                .fold(Failure::new(Exit::Usage, what), Failure::hint);
            Err(failure.hint("`tradewind help <command>` shows every flag"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command() -> Command {
        let role = Command::new("role")
            .arg(
                Arg::new("config")
                    .long("config")
                    .value_parser(clap::value_parser!(std::path::PathBuf)),
            )
            .arg(
                Arg::new("listen")
                    .long("listen")
                    .required(true)
                    .value_parser(clap::value_parser!(std::net::SocketAddr)),
            )
            .arg(
                Arg::new("pass_on")
                    .long("pass-on")
                    .action(ArgAction::SetTrue),
            )
            .arg(Arg::new("serve").long("serve").action(ArgAction::Append));
        Command::new("tradewind").subcommand(role)
    }

    fn run(yaml: &str, more: &[&str]) -> Result<ArgMatches, String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("role.yaml");
        std::fs::write(&file, yaml).unwrap();
        let mut args: Vec<OsString> = ["tradewind", "role", "--config"].map(Into::into).to_vec();
        args.push(file.into_os_string());
        args.extend(more.iter().map(Into::into));
        parse(command(), &args)
            .map_err(|e| match explain(e) {
                Ok(e) => e.to_string(),
                Err(f) => format!("{} {:?}", f.what, f.hints),
            })
            .map(|m| m.subcommand().unwrap().1.clone())
    }

    #[test]
    fn a_flag_goes_before_the_file() {
        let yaml = "listen: 127.0.0.1:1\npass-on: true\nserve: [a, b]\n";
        let from_file = run(yaml, &[]).unwrap();
        assert_eq!(
            from_file
                .get_one::<std::net::SocketAddr>("listen")
                .unwrap()
                .port(),
            1
        );
        assert!(from_file.get_flag("pass_on"));
        assert_eq!(from_file.get_many::<String>("serve").unwrap().count(), 2);
        let from_flag = run(yaml, &["--listen", "127.0.0.1:2"]).unwrap();
        assert_eq!(
            from_flag
                .get_one::<std::net::SocketAddr>("listen")
                .unwrap()
                .port(),
            2
        );
    }

    #[test]
    fn errors_name_file_field_and_nearest_match() {
        let e = run("lisetn: 127.0.0.1:1\n", &[]).unwrap_err();
        assert!(
            e.contains("unknown field `lisetn`") && e.contains("role.yaml"),
            "{e}"
        );
        assert!(e.contains("did you mean `listen`?"), "{e}");
        let e = run("listen: nowhere\n", &[]).unwrap_err();
        assert!(e.contains("field `listen`") && e.contains("nowhere"), "{e}");
        let e = run("listen: [1\n", &[]).unwrap_err();
        assert!(
            e.contains("no valid YAML") && e.contains("role.yaml"),
            "{e}"
        );
        let e = run("", &[]).unwrap_err();
        assert!(e.contains("--listen"), "{e}");
    }
}
