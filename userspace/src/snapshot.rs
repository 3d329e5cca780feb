// SPDX-License-Identifier: GPL-3.0-only
//! From a plan to what the L7 side serves: certificates loaded, pools shared between routes, the welcome backend placed.
//!
//! `app` builds one at start and one for each reload. What did not change is the same `Arc` as before, so that TLS
//! session tickets survive a reload.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use eg_l7::tls::{Identity, IdentityError, ServerTls};

use crate::config::plan::{Certificate, EdgeAlgorithm, EdgePoolPlan, ListenerPlan, Plan, SchemePlan, Target};
use crate::self_signed::SelfSigned;

/// What a snapshot needs besides the plan; lives as long as the process.
pub struct Builder {
    /// Keys the hash of Maglev pools: secret, or clients could aim at one backend.
    pub seed: [u8; 16],
    /// Where the welcome backend listens, once a plan needed it.
    pub welcome: Option<SocketAddr>,
    /// The certificate for listeners without one, once a plan needed it.
    pub self_signed: Option<SelfSigned>,
    served: Vec<(Certificate, bool, Arc<ServerTls>)>,
}

/// A certificate that cannot be served, or a part that `app` did not provide.
#[derive(Debug)]
pub enum SnapshotError {
    Tls { listener: String, source: IdentityError },
    Missing { what: &'static str },
}

impl fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tls { listener, source } => write!(f, "listener {listener:?}: {source}"),
            Self::Missing { what } => write!(f, "the {what} was not started"),
        }
    }
}

impl std::error::Error for SnapshotError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Tls { source, .. } => std::error::Error::source(source),
            Self::Missing { .. } => None,
        }
    }
}

impl Builder {
    pub fn new(seed: [u8; 16]) -> Self {
        Self { seed, welcome: None, self_signed: None, served: Vec::new() }
    }

    /// # Errors
    /// A certificate that TLS refuses.
    pub fn build(&mut self, plan: &Plan, generation: u64) -> Result<Arc<eg_l7::Snapshot>, SnapshotError> {
        let mut pools = HashMap::new();
        for pool in &plan.edge.pools {
            pools.insert(pool.name.as_str(), Arc::new(self.pool(pool)?));
        }
        let mut served = Vec::new();
        let mut listeners = Vec::new();
        for listener in &plan.edge.listeners {
            let scheme = match &listener.scheme {
                SchemePlan::Http => eg_l7::Scheme::Http,
                SchemePlan::Https { certificate, http3 } => {
                    let tls = self.tls(listener, certificate, plan.tls.tls13_only)?;
                    served.push((certificate.clone(), plan.tls.tls13_only, Arc::clone(&tls)));
                    eg_l7::Scheme::Https { tls, http3: *http3 }
                }
            };
            let routes = listener.routes.iter().filter_map(|route| {
                let pool = Arc::clone(pools.get(route.pool.as_str())?);
                Some(eg_l7::Route { path: route.path.as_str().into(), pool })
            });
            listeners.push(Arc::new(eg_l7::Listener {
                name: listener.name.as_str().into(),
                addresses: listener.addresses.clone(),
                scheme,
                routes: eg_l7::Routes::new(routes.collect()),
            }));
        }
        self.served = served;
        Ok(Arc::new(eg_l7::Snapshot { generation, listeners, limits: eg_l7::Limits::default() }))
    }

    fn tls(&self, of: &ListenerPlan, certificate: &Certificate, only13: bool) -> Result<Arc<ServerTls>, SnapshotError> {
        let known = self.served.iter().find(|(served, only, _)| served == certificate && *only == only13);
        if let Some((_, _, tls)) = known {
            return Ok(Arc::clone(tls));
        }
        let fail = |source| SnapshotError::Tls { listener: of.name.clone(), source };
        let identity = match certificate {
            Certificate::Files { cert_pem, key_pem, .. } => Identity::from_pem(&cert_pem.0, &key_pem.0),
            Certificate::SelfSigned => {
                let made =
                    self.self_signed.as_ref().ok_or(SnapshotError::Missing { what: "self-signed certificate" })?;
                Identity::from_pem(made.cert_pem.as_bytes(), made.key_pem.as_bytes())
            }
        };
        Ok(Arc::new(ServerTls::new(vec![identity.map_err(fail)?], only13).map_err(fail)?))
    }

    fn pool(&self, plan: &EdgePoolPlan) -> Result<eg_l7::Pool, SnapshotError> {
        let mut backends = Vec::new();
        for backend in &plan.backends {
            let address = match backend.target {
                Target::Address(address) => address,
                Target::Welcome => self.welcome.ok_or(SnapshotError::Missing { what: "welcome backend" })?,
            };
            let name = backend.name.as_str().into();
            backends.push(Arc::new(eg_l7::Backend { name, address, weight: backend.weight }));
        }
        let algorithm = match plan.algorithm {
            EdgeAlgorithm::RoundRobin => eg_l7::Algorithm::RoundRobin,
            EdgeAlgorithm::Maglev => eg_l7::Algorithm::Maglev { seed: self.seed },
        };
        Ok(eg_l7::Pool::new(plan.name.as_str().into(), algorithm, backends))
    }
}

/// Whether any listener of this plan shows the self-signed certificate.
pub fn needs_self_signed(plan: &Plan) -> bool {
    let without =
        |scheme: &SchemePlan| matches!(scheme, SchemePlan::Https { certificate: Certificate::SelfSigned, .. });
    plan.edge.listeners.iter().any(|listener| without(&listener.scheme))
}

/// Whether any pool of this plan has the backend that comes with the process.
pub fn needs_welcome(plan: &Plan) -> bool {
    plan.edge.pools.iter().flat_map(|pool| &pool.backends).any(|backend| backend.target == Target::Welcome)
}
