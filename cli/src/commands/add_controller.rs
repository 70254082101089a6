//! `tradewind add-controller`: one controller more for a cluster, so that it goes on when one is lost.

use std::path::{Path, PathBuf};

use serde_json::json;
use tradewind_controller::{DataDir, EnlistOptions, JoinStep, Voucher, enlist};

use super::{Context, in_pod::InPod, init::data_dir_exit, join};
use crate::{
    admin::DEFAULT_DATA_DIR,
    exit::{Exit, Failure, Outcome},
    output::{Format, Output, document},
};

/// `tradewind add-controller`
#[derive(Debug, clap::Args)]
pub struct AddController {
    /// host:port of the controller that is there, as its own --advertise says
    #[arg(value_name = "ADDRESS")]
    address: String,
    /// The token that it made with `tradewind token create --controller`
    #[arg(
        long,
        env = "TRADEWIND_TOKEN",
        value_name = "TOKEN",
        hide_env_values = true,
        required_unless_present = "identity_token_file"
    )]
    token: Option<String>,
    #[command(flatten)]
    in_pod: InPod,
    /// In a StatefulSet: the Pod's name. The first one (-0) is left to be founded or joined where there are no roots yet
    #[arg(long, value_name = "NAME", requires = "identity_token_file")]
    pod: Option<String>,
    /// host:port at which the cluster's gateways, proxies and other controllers will dial the new one
    #[arg(long, env = "TRADEWIND_ADVERTISE", value_name = "HOST:PORT")]
    advertise: String,
    /// Where its state goes; must be absent or empty
    #[arg(long, env = "TRADEWIND_DATA_DIR", value_name = "DIR", default_value = DEFAULT_DATA_DIR)]
    data_dir: PathBuf,
    /// Do nothing, and end well, where a cluster is in the directory already: for a step that runs at each start
    #[arg(long)]
    if_needed: bool,
    #[command(flatten)]
    output: Output,
}

/// The one of a StatefulSet's Pods that there is before any other.
fn is_first(pod: &str) -> bool {
    pod.ends_with("-0")
}

impl AddController {
    /// Why there is nothing to do, if so.
    fn is_done(&self) -> Result<Option<String>, Failure> {
        let dir = self.data_dir.display();
        if self.if_needed {
            let node = DataDir::read_node(&self.data_dir);
            let node = node.map_err(|e| Failure::of(data_dir_exit(&e), &e))?;
            if let Some(node) = node.filter(|node| !node.left) {
                return Ok(Some(format!(
                    "cluster {} is in {dir} already, with node {}",
                    node.cluster, node.node_id
                )));
            }
        }
        match (&self.pod, &self.in_pod.root_file) {
            (Some(pod), Some(root)) if !root.exists() => no_roots(pod, root).map(Some),
            _ => Ok(None),
        }
    }

    fn voucher(&self) -> Voucher {
        match self.in_pod.account() {
            Some(account) => Voucher::ServiceAccount(account),
            None => Voucher::token(self.token.clone().unwrap_or_default()),
        }
    }
}

/// Without roots nobody founded or joined anything here. Only one may, or each Pod would found a federation of its own.
fn no_roots(pod: &str, root: &Path) -> Result<String, Failure> {
    if is_first(pod) {
        return Ok(format!("{pod} is the cluster's first controller"));
    }
    let file = root.display();
    let what = format!("{pod} cannot be added: there are no roots in {file}");
    let hint = "the first controller writes the ConfigMap tradewind-root once it runs, and the kubelet hands it on within a minute";
    Err(Failure::new(Exit::Unreachable, what).hint(hint))
}

/// Adds this host.
pub async fn run(context: Context, args: AddController) -> Outcome {
    let printer = context.printer;
    if let Some(why) = args.is_done()? {
        printer.done(why);
        return Ok(Exit::Good);
    }
    printer.title(format_args!(
        "a further controller, through {}",
        args.address
    ));
    let options = EnlistOptions {
        voucher: args.voucher(),
        address: args.address,
        advertise: args.advertise.clone(),
        data_dir: args.data_dir,
    };
    let progress = |step: &JoinStep| {
        printer.done(format_args!("{:<10} {}", step.layer.as_str(), step.detail));
    };
    let added = enlist(options, progress).await.map_err(|e| {
        let failure = join::failure(&e);
        if args.pod.as_deref().is_some_and(is_first) {
            failure.hint("a federation was here before and this volume is empty: restore the volume, or take the ConfigMap tradewind-root away to found or join anew")
        } else {
            failure
        }
    })?;
    let dir = added.data_dir.display();
    printer.say(format_args!(
        "node {} is a controller of {} now; start it:",
        added.node_id, added.cluster
    ));
    let port = args.advertise.rsplit_once(':').map_or("15012", |(_, p)| p);
    printer.say(format_args!(
        "  tradewind controller --data-dir {dir} --listen 0.0.0.0:{port}"
    ));
    printer.say("and tell proxies and gateways of both: --controller <first>,<second>");
    match args.output.format {
        Format::Json => printer.json(&document(
            "tradewind.add-controller/v1",
            json!({
                "cluster": added.cluster,
                "node_id": added.node_id,
                "address": args.advertise,
                "data_dir": added.data_dir,
            }),
        )),
        Format::Name | Format::Table => printer.data(added.node_id),
    }
    Ok(Exit::Good)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_pod_may_find_nothing() {
        let root = Path::new("/nowhere/root.pem");
        assert!(no_roots("tradewind-controller-0", root).is_ok());
        for other in ["tradewind-controller-1", "tradewind-controller-10", "0"] {
            let failed = no_roots(other, root).unwrap_err();
            assert_eq!(failed.exit, Exit::Unreachable, "{other}");
        }
    }
}
