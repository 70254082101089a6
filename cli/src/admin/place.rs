//! Which controller is meant: one on this host, or one that a kubeconfig's context leads to.

use std::path::{Path, PathBuf};

use clap::{ArgMatches, FromArgMatches, error::ErrorKind, parser::ValueSource};
use tradewind_kubernetes::install::NAMESPACE;

/// The data directory that is meant when none is named.
pub const DEFAULT_DATA_DIR: &str = "tradewind-data";
/// The socket's name in a data directory.
const SOCKET: &str = "controller.sock";

/// The flags.
#[derive(Clone, Debug, clap::Args)]
struct Flags {
    /// The controller's data directory [default: tradewind-data]
    #[arg(long, env = "TRADEWIND_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The controller's socket, where it is not in its data directory
    #[arg(long, env = "TRADEWIND_SOCKET", value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Instead: the controller of the Kubernetes cluster that this context of the kubeconfig leads to
    #[arg(long, env = "TRADEWIND_CONTEXT", value_name = "NAME")]
    context: Option<String>,
    /// The kubeconfig [default: the files of KUBECONFIG, or ~/.kube/config]; alone it stands for its current context
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// With --context: the namespace that Tradewind is installed in
    #[arg(long, env = "TRADEWIND_NAMESPACE", value_name = "NAME", default_value = NAMESPACE)]
    namespace: tradewind_api::Namespace,
}

/// Which controller is meant.
#[derive(Clone, Debug)]
pub struct Where {
    place: Place,
    /// A place in Kubernetes, if nothing named any place at all.
    unnamed: Option<Outside>,
}

/// A controller's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// On this host.
    Local {
        /// Its data directory.
        data_dir: PathBuf,
        /// Its socket.
        socket: PathBuf,
    },
    /// In a Kubernetes cluster.
    Outside(Outside),
}

/// A controller that an API server leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outside {
    /// The API server.
    pub api: tradewind_kubernetes::Place,
    /// The namespace that the controller runs in.
    pub namespace: String,
}

impl Outside {
    /// As people call it.
    pub fn name(&self) -> &str {
        self.api.context.as_deref().unwrap_or("the current context")
    }
}

impl Where {
    /// The place.
    pub fn place(&self) -> Place {
        self.place.clone()
    }

    /// The place, for what is asked of Kubernetes clusters first: where nothing names one it is the kubeconfig's current context.
    pub fn kubernetes_first(&self) -> Place {
        let unnamed = self.unnamed.clone().map(Place::Outside);
        unnamed.unwrap_or_else(|| self.place())
    }
}

/// The socket in a data directory.
pub fn socket_in(data_dir: &Path) -> PathBuf {
    data_dir.join(SOCKET)
}

impl clap::Args for Where {
    fn augment_args(command: clap::Command) -> clap::Command {
        Flags::augment_args(command)
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Flags::augment_args_for_update(command)
    }
}

impl FromArgMatches for Where {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let flags = Flags::from_arg_matches(matches)?;
        // The one that was given most directly.
        let named = |names: [&'static str; 2]| {
            let weighed = names.map(|name| (weight(matches.value_source(name)), name));
            weighed.into_iter().rev().max_by_key(|(weight, _)| *weight)
        };
        let (here, local) = named(["data_dir", "socket"]).unwrap_or_default();
        let (there, outside) = named(["context", "kubeconfig"]).unwrap_or_default();
        if here == there && here > 0 {
            let said = |name: &str| match here {
                2 => format!("TRADEWIND_{}", name.to_uppercase()),
                _ => format!("--{}", name.replace('_', "-")),
            };
            let (local, outside) = (said(local), said(outside));
            return Err(clap::Error::raw(
                ErrorKind::ArgumentConflict,
                format!(
                    "{local} names a controller on this host and {outside} one in a Kubernetes cluster: give one of them\n"
                ),
            ));
        }
        let outside = Outside {
            api: tradewind_kubernetes::Place {
                kubeconfig: flags.kubeconfig,
                context: flags.context,
            },
            namespace: flags.namespace.to_string(),
        };
        let unnamed = (here == 0 && there == 0).then(|| outside.clone());
        let place = if there > here {
            Place::Outside(outside)
        } else {
            let data_dir = flags.data_dir.unwrap_or_else(|| DEFAULT_DATA_DIR.into());
            let socket = flags.socket.unwrap_or_else(|| socket_in(&data_dir));
            Place::Local { data_dir, socket }
        };
        Ok(Self { place, unnamed })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// How much a value says of what is wanted now: a flag goes before a variable, which was set for something else, perhaps.
fn weight(source: Option<ValueSource>) -> u8 {
    match source {
        Some(ValueSource::CommandLine) => 3,
        Some(ValueSource::EnvVariable) => 2,
        Some(ValueSource::DefaultValue) => 1,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        place: Where,
    }

    /// As a command has it; each of `variables` is set, all others are not.
    fn parse(args: &[&str], variables: &[&str]) -> Result<Place, String> {
        whole(args, variables).map(|place| place.place())
    }

    fn whole(args: &[&str], variables: &[&str]) -> Result<Where, String> {
        let mut command = <Cli as clap::CommandFactory>::command();
        for id in ["data_dir", "socket", "context", "namespace"] {
            command = command.mut_arg(id, |arg| match variables.contains(&id) {
                // Of what everybody has set.
                true => arg.env("PATH"),
                false => arg.env(None::<&'static str>),
            });
        }
        let all = std::iter::once("tradewind").chain(args.iter().copied());
        let matches = command.try_get_matches_from(all);
        let matches = matches.map_err(|e| e.to_string())?;
        let cli = Cli::from_arg_matches(&matches).map_err(|e| e.to_string())?;
        Ok(cli.place)
    }

    fn is_outside(args: &[&str], variables: &[&str]) -> bool {
        matches!(parse(args, variables), Ok(Place::Outside(_)))
    }

    #[test]
    fn a_context_leads_outside_and_everything_else_to_this_host() {
        let Ok(Place::Outside(outside)) = parse(&["--context", "west"], &[]) else {
            panic!("not outside");
        };
        assert_eq!(outside.name(), "west");
        assert_eq!(outside.namespace, NAMESPACE);
        assert!(is_outside(&["--kubeconfig", "k"], &[]));
        assert!(is_outside(&[], &["context"]));
        for local in [&[][..], &["--data-dir", "d"], &["--namespace", "n"]] {
            assert!(!is_outside(local, &[]), "{local:?}");
        }
        let local = Place::Local {
            data_dir: "d".into(),
            socket: "d/controller.sock".into(),
        };
        assert_eq!(parse(&["--data-dir", "d"], &[]), Ok(local));
    }

    #[test]
    fn a_variable_does_not_lead_away_from_what_the_command_line_names() {
        assert!(!is_outside(&["--data-dir", "d"], &["context"]));
        assert!(!is_outside(&["--socket", "s"], &["context", "data_dir"]));
        assert!(is_outside(&["--context", "c"], &["data_dir", "socket"]));
        assert!(is_outside(&["--kubeconfig", "k"], &["data_dir"]));
    }

    #[test]
    fn where_nothing_is_named_a_check_goes_to_the_current_context() {
        let first = |args: &[&str], variables: &[&str]| {
            whole(args, variables).map(|place| place.kubernetes_first())
        };
        for unnamed in [&[][..], &["--namespace", "n"]] {
            let Ok(Place::Outside(outside)) = first(unnamed, &[]) else {
                panic!("{unnamed:?}");
            };
            assert_eq!(outside.name(), "the current context");
        }
        assert!(matches!(
            first(&["--context", "c"], &[]),
            Ok(Place::Outside(_))
        ));
        assert!(matches!(
            first(&["--data-dir", "d"], &[]),
            Ok(Place::Local { .. })
        ));
        assert!(matches!(first(&[], &["data_dir"]), Ok(Place::Local { .. })));
    }

    #[test]
    fn two_places_are_refused_by_name() {
        let said = parse(&["--context", "c", "--socket", "s"], &[]).unwrap_err();
        assert!(
            said.contains("--socket") && said.contains("--context"),
            "{said}"
        );
        let said = parse(&[], &["data_dir", "context"]).unwrap_err();
        assert!(
            said.contains("TRADEWIND_DATA_DIR") && said.contains("TRADEWIND_CONTEXT"),
            "{said}"
        );
    }
}
