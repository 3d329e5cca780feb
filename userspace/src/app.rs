// SPDX-License-Identifier: GPL-3.0-only
//! The composition: a plan becomes a running process, in an order in which a failure leaves nothing half up.
//!
//! `main` starts an [`App`], `control` runs it. Cheap failures come first (certificates, the admin port), then the
//! kernel, then the edge, whose sockets are what clients see; only then `/readyz` says 200.

use std::fs::File;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use eg_l7::{Edge, Options};
use tokio::sync::mpsc;

use crate::admin::Admin;
use crate::config::plan::{DatapathPlan, Plan};
use crate::datapath::{CaptureAsk, Datapath, DatapathError};
use crate::logs::Logs;
use crate::snapshot::{self, Builder};
use crate::state::State;
use crate::telemetry::Metrics;
use crate::vitals::{Phase, Vitals};
use crate::{limits, self_signed, welcome};

/// Everything that runs. Lives on the control thread.
pub struct App {
    /// Read again at SIGHUP.
    pub(crate) file: PathBuf,
    pub(crate) logs: Logs,
    pub(crate) vitals: Arc<Vitals>,
    pub(crate) builder: Builder,
    pub(crate) datapath: Option<Datapath>,
    pub(crate) edge: Edge,
    /// Captures that somebody asks the admin server for; taken by `control`.
    pub(crate) captures: Option<mpsc::Receiver<CaptureAsk>>,
}

/// Why the process does not start; the text has the causes in it.
#[derive(Debug)]
pub struct StartError(String);

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StartError {}

/// An error and its causes on one line.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        // Some libraries repeat their cause in their own text.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

impl App {
    /// Must run inside the control thread's tokio runtime. `descriptors` is how many the process may have.
    ///
    /// # Errors
    /// The first thing that could not be had; what was started before it is gone again.
    pub async fn start(file: PathBuf, plan: Plan, logs: Logs, descriptors: u64) -> Result<App, StartError> {
        let fail = |doing: &str, error: &dyn std::error::Error| StartError(format!("{doing}: {}", causes(error)));
        let vitals = Arc::new(Vitals::new(plan.clone()));
        let mut builder =
            Builder::new(seed(plan.datapath.as_ref()).map_err(|error| fail("draw a random seed", &error))?);

        let bind = plan.observability.metrics_bind;
        let admin =
            Admin::bind(bind).await.map_err(|error| fail(&format!("bind the admin server to {bind}"), &error))?;
        let admin_address = admin.address().map_err(|error| fail("ask the admin server's address", &error))?;
        vitals.news().admin = Some(admin_address);
        let workers = workers(&plan);
        let capacity = limits::capacity(descriptors, &plan, workers);
        vitals.max_connections.store(capacity.connections as u64, Relaxed);
        // From here on, so that whoever watches sees 503 on /startupz and not a connection that hangs.
        let (ask, captures) = mpsc::channel(1);
        tokio::spawn(admin.serve(Arc::clone(&vitals), Arc::new(Metrics::new(&vitals)), ask, capacity.admin));
        provide(&mut builder, &plan)?;
        let snapshot = builder.build(&plan, 1).map_err(|error| fail("load certificates", &error))?;

        let datapath = match &plan.datapath {
            Some(wanted) => match Datapath::start(wanted, workers).await {
                Ok(datapath) => Some(datapath),
                // Terminating needs no privilege where the addresses are this host's own; forwarding does.
                Err(error @ DatapathError::Privilege { .. }) if wanted.vips.is_empty() => {
                    tracing::warn!(why = causes(&error), "kernel datapath off: listeners are ordinary sockets");
                    None
                }
                Err(error) => return Err(fail("start the kernel datapath", &error)),
            },
            None => None,
        };
        let steering = datapath.as_ref().and_then(Datapath::steering);
        let options = Options {
            workers,
            pin_cores: true,
            connections: capacity.connections,
            upstream_connections: capacity.upstream,
        };
        // Binding and starting threads blocks, and worker runtimes may not be made inside this one.
        let starting = tokio::task::spawn_blocking(move || Edge::start(snapshot, options, steering));
        let edge = match starting.await.map_err(|error| fail("start the edge", &error))? {
            Ok(edge) => edge,
            Err(error) => {
                if let Some(Err(error)) = match datapath {
                    Some(datapath) => Some(datapath.stop().await),
                    None => None,
                } {
                    tracing::warn!(error = causes(&error), "cannot stop the kernel datapath");
                }
                return Err(fail("start the edge", &error));
            }
        };

        vitals.counters.store(Some(Arc::new(edge.counters().to_vec())));
        vitals.samples.store(datapath.as_ref().map(|datapath| Arc::new(datapath.samples())));
        vitals.figures.store(datapath.as_ref().map(|datapath| Arc::new(datapath.figures())));
        let app = App { file, logs, vitals, builder, datapath, edge, captures: Some(captures) };
        app.announce_addresses();
        app.announce(admin_address, workers);
        app.vitals.enter(Phase::Serving);
        tracing::info!(generation = 1, "serving");
        Ok(app)
    }

    /// Logs where each listener is, and keeps it for `/status`.
    pub(crate) fn announce_addresses(&self) {
        let addresses = self.edge.local_addresses();
        let known = std::mem::replace(&mut self.vitals.news().addresses, addresses.clone());
        for (listener, address, transport) in addresses.iter().filter(|new| !known.contains(new)) {
            tracing::info!(listener, %address, %transport, "listening");
        }
    }

    fn announce(&self, admin: SocketAddr, workers: usize) {
        let plan = self.vitals.plan.load();
        match plan.datapath.as_ref().filter(|_| self.datapath.is_some()) {
            Some(datapath) => {
                tracing::info!(interfaces = ?datapath.interfaces, vips = datapath.vips.len(), "kernel datapath on")
            }
            None if plan.datapath.is_some() => {}
            None => tracing::info!("kernel datapath off: no datapath.interfaces; listeners are ordinary sockets"),
        }
        tracing::info!(%admin, workers, "running");
        if snapshot::needs_welcome(&plan) || snapshot::needs_self_signed(&plan) {
            for line in self.try_lines(admin) {
                tracing::info!("try: {line}");
            }
        }
    }

    /// Commands that show a first user something.
    fn try_lines(&self, admin: SocketAddr) -> Vec<String> {
        let plan = self.vitals.plan.load();
        let mut lines = Vec::new();
        for (name, address, transport) in self.edge.local_addresses() {
            let Some(listener) = plan.edge.listeners.iter().find(|listener| listener.name == name) else { continue };
            use crate::config::plan::SchemePlan::{Http, Https};
            lines.push(match (&listener.scheme, transport) {
                (Http, _) => format!("curl http://{address}/"),
                (Https { .. }, eg_l7::Transport::Tcp) => format!("curl --insecure https://{address}/"),
                // Debian 12's curl has no HTTP/3; the repository's client does.
                (Https { .. }, eg_l7::Transport::Udp) => format!("tools/h3get -i https://{address}/"),
            });
        }
        let guard = if plan.admin.token_sha256.is_some() { "-H 'Authorization: Bearer TOKEN' " } else { "" };
        lines.push(format!("curl {guard}http://{admin}/metrics"));
        lines
    }
}

/// Starts what this plan needs and no plan before it did.
pub(crate) fn provide(builder: &mut Builder, plan: &Plan) -> Result<(), StartError> {
    if builder.welcome.is_none() && snapshot::needs_welcome(plan) {
        let address = welcome::start().map_err(|error| StartError(format!("start the welcome backend: {error}")))?;
        tracing::info!(%address, "welcome backend");
        builder.welcome = Some(address);
    }
    if builder.self_signed.is_none() && snapshot::needs_self_signed(plan) {
        let made = self_signed::obtain(&State::open());
        builder.self_signed =
            Some(made.map_err(|error| StartError(format!("make a self-signed certificate: {error}")))?);
    }
    Ok(())
}

/// As configured, else one per core; never more than the kernel side can tell apart.
fn workers(plan: &Plan) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let wanted = if plan.runtime.workers == 0 { cores } else { plan.runtime.workers };
    wanted.min(eg_abi::MAX_WORKERS as usize)
}

/// The configured seed, so that every node picks alike, else a random one.
fn seed(datapath: Option<&DatapathPlan>) -> io::Result<[u8; 16]> {
    if let Some(seed) = datapath.and_then(|datapath| datapath.hash_seed) {
        return Ok(seed);
    }
    let mut seed = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut seed)?;
    Ok(seed)
}
