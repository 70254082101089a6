//! What happens, in order: five phases under load, each with what must be true at its end.
//!
//! Owns the load and the phases' times. A phase that goes wrong is noted and the story goes on, so that the table shows all.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    Options, check,
    federation::{Federation, at_least},
    load::{Load, Record},
    phase::{Closed, Expect, Open, Told, finish, format_failure},
    plan::{CENTRAL, CLUSTERS, EAST, LATE_CALLER, LATE_WORKLOAD, Place, WEST},
    process::Processes,
    screen::Screen,
    tally::{self, Span},
};
use crate::{
    admin::{Admin, socket_in},
    exit::Failure,
    http,
    printer::Printer,
    view,
};

/// The service that is exported while a controller is down.
const RECEIPTS: &str = "shop/receipts";
/// How long a phase may take to be served by whom it should be.
const SETTLE_LIMIT: Duration = Duration::from_secs(20);
/// How long an election, a restart or a new export may take.
const STEP_LIMIT: Duration = Duration::from_secs(30);
/// The stretch of time that must be as expected before a phase counts as settled.
const SETTLED_WINDOW: Duration = Duration::from_millis(500);
/// How long the undisturbed calls before the first phase are watched.
const BEFORE: Duration = Duration::from_secs(3);

struct Story<'a> {
    options: &'a Options,
    federation: Federation<'a>,
    screen: Screen,
    record: Arc<Record>,
    closed: Vec<Closed>,
    figures: BTreeMap<String, f64>,
}

/// Brings everything up, plays the phases and counts.
pub async fn tell(
    printer: Printer,
    options: &Options,
    processes: &mut Processes,
) -> Result<Told, Failure> {
    let mut screen = Screen::new(printer);
    screen.phase("starting three clusters on 127.1.0.1, 127.2.0.1 and 127.3.0.1");
    let mut federation = Federation { processes };
    let begun = Instant::now();
    federation.start(&screen).await?;
    let record = Arc::new(Record::new(Instant::now()));
    screen.follow(Arc::clone(&record));
    let mut story = Story {
        options,
        federation,
        screen,
        record,
        closed: Vec::new(),
        figures: BTreeMap::new(),
    };
    story.figure("start_ms", begun.elapsed());
    story.play().await
}

impl Story<'_> {
    async fn play(mut self) -> Result<Told, Failure> {
        let load = Load::start(WEST.caller(1), self.options.rate, Arc::clone(&self.record));
        self.before().await;

        let phase = self.begin(
            1,
            "every payments workload of west is killed",
            Expect::Only(CENTRAL),
        );
        self.federation.processes.kill("west/payments-").await;
        self.end(phase, Ok(())).await;

        let phase = self.begin(
            2,
            "the whole cluster central is killed while it serves",
            Expect::Only(EAST),
        );
        self.federation.processes.kill("central/").await;
        self.end(phase, Ok(())).await;

        let phase = self.begin(3, "both are brought back", Expect::Home(WEST));
        let done = self.bring_back().await;
        self.end(phase, done).await;

        let phase = self.begin(
            4,
            "the controller that leads the store is killed",
            Expect::Home(WEST),
        );
        let done = self.lose_leader().await;
        self.end(phase, done).await;

        let phase = self.begin(5, "east is drained by command", Expect::Never(EAST));
        let side = Load::start(
            EAST.caller(1),
            (self.options.rate / 10).max(5),
            Arc::clone(&self.record),
        );
        let done = self.drain_east().await;
        self.end(phase, done).await;

        self.memory();
        load.finish().await;
        side.finish().await;
        self.screen.finish();
        Ok(finish(
            self.closed,
            &self.record,
            self.figures,
            self.options.rate,
        ))
    }

    fn figure(&mut self, name: &str, took: Duration) {
        self.figures
            .insert(name.to_owned(), (took.as_secs_f64() * 1e4).round() / 10.0);
    }

    fn begin(&self, number: usize, title: &'static str, expect: Expect) -> Open {
        self.screen.phase(&match number {
            0 => title.to_owned(),
            n => format!("phase {n} of 5: {title}"),
        });
        Open {
            number,
            title,
            expect,
            start: Instant::now(),
            problems: Vec::new(),
        }
    }

    /// Waits until the phase is as it must be, and then for its length.
    async fn end(&mut self, mut phase: Open, done: Result<(), Failure>) {
        if let Err(failure) = done {
            phase.problems.push(format_failure(&failure));
        }
        let expect = phase.expect;
        let record = Arc::clone(&self.record);
        let settled = check::until(
            self.federation.processes,
            "the phase to settle",
            SETTLE_LIMIT,
            async || {
                let now_us = record.now_us();
                let window = u64::try_from(SETTLED_WINDOW.as_micros()).unwrap_or_default();
                let span = Span {
                    from_us: now_us.saturating_sub(window),
                    to_us: now_us,
                };
                match expect.unmet(&record.look(|samples| tally::count(samples, span))) {
                    None => Ok(()),
                    Some(unmet) => Err(unmet),
                }
            },
        )
        .await;
        if let Err(failure) = settled {
            phase.problems.push(format_failure(&failure));
        }
        let settled = Instant::now();
        let length = if phase.number == 0 {
            BEFORE
        } else {
            self.options.phase
        };
        let end = (phase.start + length).max(settled + length / 3);
        while Instant::now() < end {
            let step =
                Duration::from_millis(200).min(end.saturating_duration_since(Instant::now()));
            tokio::time::sleep(step).await;
            if let Err(failure) = self.federation.processes.check() {
                phase.problems.push(format_failure(&failure));
            }
        }
        // The settled end is the last third; what came before it may still have been on its way.
        let settled = settled.max(end.checked_sub(length / 3).unwrap_or(settled));
        self.closed.push(Closed {
            open: phase,
            settled,
            end,
        });
    }

    /// Undisturbed calls, and direct ones beside them to compare with.
    async fn before(&mut self) {
        let phase = self.begin(0, "undisturbed: west serves itself", Expect::Home(WEST));
        let direct = Arc::new(Record::new(Instant::now()));
        let load = Load::start(
            WEST.app(1),
            (self.options.rate / 2).max(1),
            Arc::clone(&direct),
        );
        self.end(phase, Ok(())).await;
        load.finish().await;
        let all = Span {
            from_us: 0,
            to_us: u64::MAX,
        };
        let count = tally::count(&direct.samples(), all);
        self.figure("direct_p50_ms", Duration::from_micros(count.p50_us));
        self.figure("direct_p99_ms", Duration::from_micros(count.p99_us));
    }

    async fn bring_back(&mut self) -> Result<(), Failure> {
        self.federation.workloads(WEST)?;
        self.federation.controller(CENTRAL)?;
        self.federation.gateway(CENTRAL)?;
        self.federation.workloads(CENTRAL)?;
        self.federation.whole(WEST).await?;
        self.federation.whole(CENTRAL).await?;
        self.screen
            .step("west's workloads and the cluster central are back");
        Ok(())
    }

    async fn lose_leader(&mut self) -> Result<(), Failure> {
        let killed = self.leader(&CLUSTERS).await?;
        let survivors: Vec<Place> = CLUSTERS
            .into_iter()
            .filter(|place| *place != killed)
            .collect();
        let [offers, calls] = survivors.as_slice() else {
            return Err(Failure::problem("the federation has not three clusters"));
        };
        let (offers, calls) = (*offers, *calls);
        self.federation
            .processes
            .kill(&format!("{}/controller", killed.name))
            .await;
        self.screen
            .step(&format!("killed the leader, {}'s controller", killed.name));
        let took = self.new_leader(&survivors, killed).await?;
        self.figure("new_leader_ms", took);

        self.federation.workload(offers, LATE_WORKLOAD, RECEIPTS)?;
        self.federation.caller(calls, LATE_CALLER, RECEIPTS)?;
        self.registered(offers, RECEIPTS).await?;
        self.federation
            .ready("the second caller", calls.caller_admin(LATE_CALLER))
            .await?;
        let exported = Instant::now();
        self.federation
            .command(offers, &["export", RECEIPTS])
            .await?;
        let wanted = format!("receipts from {}/{LATE_WORKLOAD}", offers.name);
        check::until(
            self.federation.processes,
            "a call to the new export",
            STEP_LIMIT,
            async || match http::get(calls.caller(LATE_CALLER), "/").await {
                Ok(answer) if answer.status == 200 && answer.body == wanted => Ok(()),
                Ok(answer) => Err(format!("status {}: {}", answer.status, answer.body)),
                Err(e) => Err(e.why),
            },
        )
        .await?;
        let took = exported.elapsed();
        self.figure("export_to_first_call_ms", took);
        self.screen.step(&format!(
            "{RECEIPTS} was exported by {} and called from {} {} ms later",
            offers.name,
            calls.name,
            took.as_millis()
        ));

        let begun = Instant::now();
        self.federation.controller(killed)?;
        self.federation
            .ready("the restarted controller", killed.controller_admin())
            .await?;
        self.caught_up(killed, offers).await?;
        self.figure("catch_up_ms", begun.elapsed());
        self.screen.step(&format!(
            "{}'s controller came back and caught up",
            killed.name
        ));
        Ok(())
    }

    /// Who leads, as the first of these that knows says.
    async fn leader(&mut self, asked: &[Place]) -> Result<Place, Failure> {
        let mut found = None;
        let sockets: Vec<_> = asked
            .iter()
            .map(|place| socket_in(&self.federation.data_dir(*place)))
            .collect();
        check::until(
            self.federation.processes,
            "a leader of the store",
            STEP_LIMIT,
            async || {
                for socket in &sockets {
                    let Ok(admin) = Admin::connect_to(socket).await else {
                        continue;
                    };
                    let Ok(status) = admin.status().await else {
                        continue;
                    };
                    let leader = status
                        .peers
                        .iter()
                        .find(|p| p.leader)
                        .map(|p| p.cluster.clone());
                    found = leader
                        .and_then(|name| CLUSTERS.into_iter().find(|place| place.name == name));
                    if found.is_some() {
                        return Ok(());
                    }
                }
                Err("nobody knows one".to_owned())
            },
        )
        .await?;
        found.ok_or_else(|| Failure::problem("nobody leads the store"))
    }

    async fn new_leader(
        &mut self,
        survivors: &[Place],
        killed: Place,
    ) -> Result<Duration, Failure> {
        let sockets: Vec<_> = survivors
            .iter()
            .map(|place| socket_in(&self.federation.data_dir(*place)))
            .collect();
        check::until(
            self.federation.processes,
            "a new leader",
            STEP_LIMIT,
            async || {
                for socket in &sockets {
                    let admin = Admin::connect_to(socket).await.map_err(|e| e.what)?;
                    let status = admin.status().await.map_err(|e| e.what)?;
                    let leader = status
                        .peers
                        .iter()
                        .find(|p| p.leader)
                        .map(|p| p.cluster.as_str());
                    if leader.is_none_or(|name| name == killed.name) {
                        return Err("the survivors have not elected one".to_owned());
                    }
                }
                Ok(())
            },
        )
        .await
    }

    async fn registered(&mut self, place: Place, service: &str) -> Result<(), Failure> {
        let socket = socket_in(&self.federation.data_dir(place));
        check::until(
            self.federation.processes,
            "the new workload",
            STEP_LIMIT,
            async || {
                let admin = Admin::connect_to(&socket).await.map_err(|e| e.what)?;
                let found = admin.endpoints(service, false).await.map_err(|e| e.what)?;
                at_least(
                    found.service.as_ref().map_or(0, view::healthy),
                    1,
                    "healthy endpoints",
                )
            },
        )
        .await
        .map(drop)
    }

    /// Waits until one controller knows at least what another knows now.
    async fn caught_up(&mut self, place: Place, ahead: Place) -> Result<(), Failure> {
        let revision = self.federation.admin(ahead).await?.status().await?.revision;
        let socket = socket_in(&self.federation.data_dir(place));
        check::until(
            self.federation.processes,
            "the restarted controller to catch up",
            STEP_LIMIT,
            async || {
                let admin = Admin::connect_to(&socket).await.map_err(|e| e.what)?;
                let status = admin.status().await.map_err(|e| e.what)?;
                if status.revision < revision {
                    return Err(format!(
                        "it is at revision {} of {revision}",
                        status.revision
                    ));
                }
                let services = admin.services(false).await.map_err(|e| e.what)?;
                let known = services
                    .services
                    .iter()
                    .any(|s| view::service_name(s) == RECEIPTS);
                at_least(usize::from(known), 1, "services exported meanwhile")
            },
        )
        .await
        .map(drop)
    }

    async fn drain_east(&mut self) -> Result<(), Failure> {
        // East's own caller is served by east, until it is drained: so that the drain has something to end.
        let record = Arc::clone(&self.record);
        let from_us = record.now_us();
        check::until(
            self.federation.processes,
            "east to serve its own caller",
            STEP_LIMIT,
            async || {
                let span = Span {
                    from_us,
                    to_us: record.now_us(),
                };
                let count = record.look(|samples| tally::count(samples, span));
                let east = count.by.get(EAST.index()).copied().unwrap_or_default();
                at_least(
                    usize::try_from(east).unwrap_or(usize::MAX),
                    5,
                    "calls served",
                )
            },
        )
        .await?;
        self.federation.command(WEST, &["drain", EAST.name]).await?;
        self.screen.step("east was drained, by a command in west");
        Ok(())
    }

    /// The largest process of each role.
    fn memory(&mut self) {
        for (name, kib) in self.federation.processes.resident_kib() {
            let role = match name.rsplit('/').next() {
                Some("controller") => "controller",
                Some("gateway") => "gateway",
                Some("dns") => "dns",
                Some("app") => continue,
                _ => "proxy",
            };
            let kib = u32::try_from(kib).map_or(f64::MAX, f64::from);
            let entry = self
                .figures
                .entry(format!("resident_{role}_kib"))
                .or_default();
            *entry = entry.max(kib);
        }
    }
}
