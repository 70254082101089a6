//! A federation's workloads and callers, each with a proxy as a user would start it. Owns nothing: they belong to whoever started
//! them.

use std::net::SocketAddr;

use crate::{
    Federation, Process,
    federation::{ADMIN, HBONE, host},
    http,
    wait::{USUAL, until},
};

/// An application, if it is a process, and its proxy.
#[derive(Debug)]
pub struct Workload {
    /// The application; none when the test itself is it.
    pub app: Option<Process>,
    /// The proxy.
    pub proxy: Option<Process>,
    /// The proxy's HBONE address.
    pub hbone: SocketAddr,
    /// The proxy's admin address.
    pub admin: SocketAddr,
}

impl Workload {
    /// SIGKILL to both.
    pub async fn kill(&mut self) {
        for process in [&mut self.app, &mut self.proxy].into_iter().flatten() {
            process.kill().await;
        }
        self.app = None;
        self.proxy = None;
    }
}

impl Federation {
    /// A workload of `service` (namespace/name:port) with a process of its own that answers "<name> from <cluster>/<n>".
    pub async fn workload(&self, number: usize, n: u8, service: &str) -> Workload {
        self.workload_with(number, n, service, &[]).await
    }

    /// The same whose proxy has more flags.
    pub async fn workload_with(
        &self,
        number: usize,
        n: u8,
        service: &str,
        more: &[&str],
    ) -> Workload {
        let (app, app_addr) = self.app(number, n, service).await;
        let spec = format!("{service}={app_addr},check=http:/healthz");
        let mut workload = self.serve(number, n, &spec, more).await;
        workload.app = Some(app);
        workload
    }

    /// Its application, listening.
    async fn app(&self, number: usize, n: u8, service: &str) -> (Process, SocketAddr) {
        let address = self.addr(number, host::WORKLOADS + n, 8080);
        let short = short_name(service);
        let text = format!("{short} from {}/{n}", self.clusters[number].name);
        let listen = address.to_string();
        let args = ["demo-app", "--listen", &listen, "--name", &text];
        let name = format!("{short}-app-{n}");
        let app = self.process_at(number, host::WORKLOADS + n, &name, &args);
        until("the application to listen", USUAL, || {
            http::get(address, "/healthz")
        })
        .await;
        (app, address)
    }

    /// The application of `workload` again, where its proxy lives on.
    pub async fn workload_again(
        &self,
        number: usize,
        workload: &mut Workload,
        service: &str,
    ) -> Workload {
        let ip = workload.hbone.ip();
        let n = match ip {
            std::net::IpAddr::V4(v4) => v4.octets()[3] - host::WORKLOADS,
            std::net::IpAddr::V6(_) => panic!("loopback blocks are IPv4"),
        };
        let (app, _) = self.app(number, n, service).await;
        Workload {
            app: Some(app),
            proxy: workload.proxy.take(),
            hbone: workload.hbone,
            admin: workload.admin,
        }
    }

    /// A proxy that serves what the test itself listens on; `spec` is its `--serve`.
    pub async fn serve(&self, number: usize, n: u8, spec: &str, more: &[&str]) -> Workload {
        let workload = self.start_serving(number, n, spec, more);
        self.ready(workload.admin).await;
        workload
    }

    /// The same without waiting until it is ready. The identity is the service's own account.
    pub fn start_serving(&self, number: usize, n: u8, spec: &str, more: &[&str]) -> Workload {
        let service = spec.split('=').next().unwrap_or_default();
        let identity = service.split(':').next().unwrap_or_default();
        self.start_serving_as(number, n, spec, identity, more)
    }

    /// The same under an identity of choice.
    pub fn start_serving_as(
        &self,
        number: usize,
        n: u8,
        spec: &str,
        identity: &str,
        more: &[&str],
    ) -> Workload {
        let hbone = self.addr(number, host::WORKLOADS + n, HBONE);
        let admin = self.addr(number, host::WORKLOADS + n, ADMIN);
        let (h, a, dir) = (hbone.to_string(), admin.to_string(), self.data_dir(number));
        let name = format!("{}-{n}", short_name(spec));
        let args = [
            "proxy",
            "--name",
            &name,
            "--data-dir",
            &dir,
            "--identity",
            identity,
            "--serve",
            spec,
            "--hbone-listen",
            &h,
            "--admin-listen",
            &a,
            "--threads",
            "1",
            "--drain-deadline",
            "5s",
        ];
        let name = format!("{name}-proxy");
        let proxy = self.process_at(number, host::WORKLOADS + n, &name, &[&args, more].concat());
        Workload {
            app: None,
            proxy: Some(proxy),
            hbone,
            admin,
        }
    }

    /// A caller's proxy in a cluster; returns where to call.
    pub async fn caller(&self, number: usize, n: u8, service: &str) -> (Process, SocketAddr) {
        self.caller_with(number, n, service, &[]).await
    }

    /// The same with more flags.
    pub async fn caller_with(
        &self,
        number: usize,
        n: u8,
        service: &str,
        more: &[&str],
    ) -> (Process, SocketAddr) {
        let (process, listen) = self.start_caller_with(number, n, service, more);
        self.ready(self.addr(number, host::CALLERS + n, ADMIN))
            .await;
        (process, listen)
    }

    /// A caller without waiting until it is ready.
    pub fn start_caller(&self, number: usize, n: u8, service: &str) -> (Process, SocketAddr) {
        self.start_caller_with(number, n, service, &[])
    }

    fn start_caller_with(
        &self,
        number: usize,
        n: u8,
        service: &str,
        more: &[&str],
    ) -> (Process, SocketAddr) {
        let listen = self.addr(number, host::CALLERS + n, 9090);
        let admin = self.addr(number, host::CALLERS + n, ADMIN).to_string();
        let hbone = self.addr(number, host::CALLERS + n, HBONE).to_string();
        let spec = format!("{listen}={service}");
        let dir = self.data_dir(number);
        let name = format!("caller-{n}");
        let args = [
            "proxy",
            "--name",
            &name,
            "--data-dir",
            &dir,
            "--identity",
            "shop/web",
            "--listen",
            &spec,
            "--hbone-listen",
            &hbone,
            "--admin-listen",
            &admin,
            "--threads",
            "1",
            "--drain-deadline",
            "5s",
        ];
        (
            self.process_at(number, host::CALLERS + n, &name, &[&args, more].concat()),
            listen,
        )
    }
}

fn short_name(service: &str) -> &str {
    let end = service.find(':').unwrap_or(service.len());
    let start = service.find('/').map_or(0, |s| s + 1);
    service.get(start..end).unwrap_or(service)
}
