//! The demo's federation: how each role is started, by the same commands that a user types.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use serde_json::Value;
use tradewind_api::proto::v1;

use super::{
    check,
    plan::{CLUSTERS, EAST, Place, WEST, WORKLOADS},
    process::Processes,
    screen::Screen,
};
use crate::{
    admin::{Admin, socket_in},
    exit::Failure,
    view,
};

/// The service that all clusters offer.
pub const PAYMENTS: &str = "shop/payments";

/// How long the start of everything may take, on a slow machine.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Starts roles and asks them.
#[derive(Debug)]
pub struct Federation<'a> {
    /// Its processes.
    pub processes: &'a mut Processes,
}

/// Command line arguments.
macro_rules! args {
    ($($arg:expr),* $(,)?) => { vec![$($arg.to_string()),*] };
}

impl Federation<'_> {
    /// A cluster's data directory.
    pub fn data_dir(&self, place: Place) -> PathBuf {
        self.processes.dir().join(place.name)
    }

    fn dir_arg(&self, place: Place) -> String {
        self.data_dir(place).display().to_string()
    }

    /// A connection to a cluster's controller.
    pub async fn admin(&self, place: Place) -> Result<Admin, Failure> {
        Admin::connect_to(&socket_in(&self.data_dir(place))).await
    }

    /// Starts a cluster's controller.
    pub fn controller(&mut self, place: Place) -> Result<(), Failure> {
        let args = args![
            "controller",
            "--data-dir",
            self.dir_arg(place),
            "--listen",
            place.controller(),
            "--admin-listen",
            place.controller_admin(),
        ];
        self.processes
            .spawn(&format!("{}/controller", place.name), &args)
    }

    /// Starts a cluster's gateway.
    pub fn gateway(&mut self, place: Place) -> Result<(), Failure> {
        let args = args![
            "gateway",
            "--name",
            "gateway-1",
            "--data-dir",
            self.dir_arg(place),
            "--listen",
            place.gateway(),
            "--controller-backend",
            place.controller(),
            "--admin-listen",
            place.gateway_admin(),
        ];
        self.processes
            .spawn(&format!("{}/gateway", place.name), &args)
    }

    /// Starts an application and its proxy.
    pub fn workload(&mut self, place: Place, n: u8, service: &str) -> Result<(), Failure> {
        let short = service.rsplit('/').next().unwrap_or(service);
        let app = args![
            "demo-app",
            "--listen",
            place.app(n),
            "--name",
            format!("{short} from {}/{n}", place.name)
        ];
        self.processes
            .spawn(&format!("{}/{short}-{n}/app", place.name), &app)?;
        let serve = format!("{service}:80={},check=http:/healthz", place.app(n));
        let proxy = args![
            "proxy",
            "--name",
            format!("{short}-{n}"),
            "--data-dir",
            self.dir_arg(place),
            "--identity",
            service,
            "--serve",
            serve,
            "--hbone-listen",
            place.hbone(n),
            "--admin-listen",
            place.hbone_admin(n),
        ];
        self.processes
            .spawn(&format!("{}/{short}-{n}/proxy", place.name), &proxy)
    }

    /// Starts a caller's proxy.
    pub fn caller(&mut self, place: Place, n: u8, service: &str) -> Result<(), Failure> {
        let listen = format!("{}={service}:80", place.caller(n));
        let args = args![
            "proxy",
            "--name",
            format!("caller-{n}"),
            "--data-dir",
            self.dir_arg(place),
            "--identity",
            "shop/web",
            "--listen",
            listen,
            "--hbone-listen",
            place.caller_hbone(n),
            "--admin-listen",
            place.caller_admin(n),
        ];
        self.processes
            .spawn(&format!("{}/caller-{n}", place.name), &args)
    }

    fn dns(&mut self, place: Place) -> Result<(), Failure> {
        let args = args![
            "dns",
            "--name",
            "dns-1",
            "--data-dir",
            self.dir_arg(place),
            "--listen",
            place.dns(),
            "--admin-listen",
            place.dns_admin(),
        ];
        self.processes.spawn(&format!("{}/dns", place.name), &args)
    }

    /// Starts every payments workload of a cluster.
    pub fn workloads(&mut self, place: Place) -> Result<(), Failure> {
        (1..=WORKLOADS).try_for_each(|n| self.workload(place, n, PAYMENTS))
    }

    /// Runs a command against a cluster's controller.
    pub async fn command(&self, place: Place, args: &[&str]) -> Result<String, Failure> {
        let mut args: Vec<String> = args.iter().map(ToString::to_string).collect();
        args.extend(["--data-dir".to_owned(), self.dir_arg(place)]);
        self.processes.run(&args).await
    }

    async fn found(&self) -> Result<String, Failure> {
        let args = args![
            "init",
            "--cluster",
            WEST.name,
            "--region",
            WEST.region,
            "--data-dir",
            self.dir_arg(WEST),
            "--gateway",
            WEST.gateway(),
            "-o",
            "json",
        ];
        token_in(&self.processes.run(&args).await?)
    }

    async fn token(&self, place: Place) -> Result<String, Failure> {
        token_in(
            &self
                .command(
                    WEST,
                    &["token", "create", "--cluster", place.name, "-o", "json"],
                )
                .await?,
        )
    }

    async fn join(&self, place: Place, token: &str) -> Result<(), Failure> {
        let args = args![
            "join",
            WEST.gateway(),
            "--token",
            token,
            "--cluster",
            place.name,
            "--region",
            place.region,
            "--data-dir",
            self.dir_arg(place),
            "--gateway",
            place.gateway(),
        ];
        self.processes.run(&args).await.map(drop)
    }

    /// Waits for a role's readiness.
    pub async fn ready(&mut self, what: &str, admin: SocketAddr) -> Result<(), Failure> {
        check::until(self.processes, what, START_LIMIT, || check::ready(admin))
            .await
            .map(drop)
    }

    /// Brings everything up, to the point where a call can be made.
    pub async fn start(&mut self, screen: &Screen) -> Result<(), Failure> {
        let first = self.found().await?;
        screen.step("west founded the federation");
        self.controller(WEST)?;
        self.gateway(WEST)?;
        self.ready("west's controller", WEST.controller_admin())
            .await?;
        self.ready("west's gateway", WEST.gateway_admin()).await?;
        self.workloads(WEST)?;
        self.caller(WEST, 1, PAYMENTS)?;
        self.dns(WEST)?;
        screen.step("west runs: controller, gateway, workloads, a caller, dns");
        let [_, central, east] = CLUSTERS;
        let second = self.token(east).await?;
        tokio::try_join!(self.join(central, &first), self.join(east, &second))?;
        screen.step("central and east joined, by one token each");
        for place in [central, east] {
            self.controller(place)?;
            self.gateway(place)?;
            self.workloads(place)?;
        }
        self.caller(EAST, 1, PAYMENTS)?;
        for place in CLUSTERS {
            self.registered(place).await?;
        }
        screen.step("all workloads are up and registered");
        let export = ["export", PAYMENTS];
        tokio::try_join!(
            self.command(WEST, &export),
            self.command(central, &export),
            self.command(east, &export)
        )?;
        screen.step("shop/payments is exported from all three");
        for place in CLUSTERS {
            self.whole(place).await?;
        }
        self.ready("west's caller", WEST.caller_admin(1)).await?;
        self.ready("east's caller", EAST.caller_admin(1)).await?;
        self.ready("west's dns", WEST.dns_admin()).await?;
        screen.step("the federation is whole: three voters, six healthy endpoints");
        Ok(())
    }

    /// Waits until a cluster's controller knows its own workloads to be healthy.
    async fn registered(&mut self, place: Place) -> Result<(), Failure> {
        self.ready(
            &format!("{}'s controller", place.name),
            place.controller_admin(),
        )
        .await?;
        let socket = socket_in(&self.data_dir(place));
        let what = format!("{}'s workloads", place.name);
        check::until(self.processes, &what, START_LIMIT, async || {
            let admin = Admin::connect_to(&socket).await.map_err(|e| e.what)?;
            let service = payments(&admin).await?;
            let healthy = service
                .endpoints
                .iter()
                .filter(|e| e.cluster == place.name && view::health(e) == "healthy");
            at_least(
                healthy.count(),
                WORKLOADS.into(),
                "healthy endpoints of its own",
            )
        })
        .await
        .map(drop)
    }

    /// Waits until a cluster sees the whole federation.
    pub async fn whole(&mut self, place: Place) -> Result<(), Failure> {
        let socket = socket_in(&self.data_dir(place));
        let what = format!("{} to see the whole federation", place.name);
        let wanted = CLUSTERS.len() * usize::from(WORKLOADS);
        check::until(self.processes, &what, START_LIMIT, async || {
            let admin = Admin::connect_to(&socket).await.map_err(|e| e.what)?;
            let service = payments(&admin).await?;
            at_least(service.exported_by.len(), CLUSTERS.len(), "exporters")?;
            at_least(view::healthy(&service), wanted, "healthy endpoints")?;
            let status = admin.status().await.map_err(|e| e.what)?;
            at_least(
                status.peers.iter().filter(|p| p.voter).count(),
                CLUSTERS.len(),
                "voters",
            )
        })
        .await
        .map(drop)
    }
}

async fn payments(admin: &Admin) -> Result<v1::Service, String> {
    let found = admin.endpoints(PAYMENTS, false).await.map_err(|e| e.what)?;
    found
        .service
        .ok_or_else(|| format!("{PAYMENTS} is unknown"))
}

/// Whether there are enough of something, in words.
pub fn at_least(found: usize, wanted: usize, what: &str) -> Result<(), String> {
    if found >= wanted {
        Ok(())
    } else {
        Err(format!("{found} of {wanted} {what}"))
    }
}

fn token_in(json: &str) -> Result<String, Failure> {
    let value: Value = serde_json::from_str(json).map_err(|e| {
        Failure::problem(format!(
            "a command printed no JSON where it should have: {e}"
        ))
    })?;
    value
        .get("token")
        .and_then(Value::as_str)
        .map(str::to_owned)
        .ok_or_else(|| Failure::problem("a command printed no token where it should have"))
}
