//! Numbers about the daemon, in Prometheus form, and the endpoint that serves them.
//!
//! Owns every metric's name and meaning. All handles are made at start, so that counting an action is an
//! addition to a known place: no label is looked up on the way of an event.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::tcp::Serving;
use aarm_common::op::{OPERATIONS, Operation};
use aarm_common::state::{STATS, Stat};
use aarm_common::{ABI_VERSION, Decision};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus::{
    Encoder, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

/// Label value of an action that an audit policy would have refused.
pub const AUDITED: &str = "AUDIT";
/// Columns of the action table: by `Decision as u8`, audited ones last.
pub const OUTCOMES: usize = 8;
/// Column of audited actions.
pub const OUTCOME_AUDIT: usize = OUTCOMES - 1;
/// A core that has not been heard of for so long is not healthy.
pub const HEARTBEAT_MAX: Duration = Duration::from_secs(10);
/// How scrapes are served.
pub const SERVING: Serving =
    Serving { connections: 16, request: Duration::from_secs(5), answer: Duration::from_secs(5) };

const DECISION_BUCKETS: &[f64] =
    &[1e-6, 2e-6, 4e-6, 8e-6, 16e-6, 32e-6, 64e-6, 128e-6, 256e-6, 512e-6, 1e-3, 4e-3, 16e-3];
const PIPELINE_BUCKETS: &[f64] =
    &[1e-3, 2e-3, 4e-3, 8e-3, 12e-3, 16e-3, 24e-3, 32e-3, 64e-3, 128e-3, 256e-3, 512e-3, 1.0, 2.0, 8.0];

/// What became of a request to a witness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WitnessResult {
    /// It has cosigned.
    Cosigned,
    /// It was not reached, or refuses.
    Failed,
    /// It has seen another log.
    Disagrees,
}

impl WitnessResult {
    fn name(self) -> &'static str {
        match self {
            Self::Cosigned => "cosigned",
            Self::Failed => "failed",
            Self::Disagrees => "disagrees",
        }
    }
}

/// All metrics.
pub struct Metrics {
    registry: Registry,
    actions: Vec<[Option<IntCounter>; OUTCOMES]>,
    kernel: Vec<(Stat, IntCounter)>,
    /// Events taken from the ring.
    pub received: IntCounter,
    /// Events known to be lost.
    pub lost: IntCounter,
    /// Events that could not be decoded; each has a `gap` receipt.
    pub undecodable: IntCounter,
    /// Bytes in the ring.
    pub ring_fill: IntGauge,
    /// What deciding took in the kernel.
    pub decision: Histogram,
    /// From the event to its receipt on disk.
    pub pipeline: Histogram,
    /// Sessions alive.
    pub sessions: IntGauge,
    /// Receipts on disk, written by this daemon.
    pub receipts: IntCounter,
    /// Bytes of receipts written.
    pub receipt_bytes: IntCounter,
    /// Syncs of the log.
    pub syncs: IntCounter,
    /// Checkpoints signed.
    pub checkpoints: IntCounter,
    /// Receipts taken out of the log because they were too old, or too many.
    pub pruned: IntCounter,
    /// Redacted values that could not be kept.
    pub withheld_lost: IntCounter,
    /// Turns in which the core could not hand receipts on, and left events in the ring.
    pub backpressure: IntCounter,
    /// Streams that were cut off because their client was too slow.
    pub slow_watchers: IntCounter,
    /// Policies loaded.
    pub policies: IntGauge,
    /// Actions that wait for an answer.
    pub waiting: IntGauge,
    answers: IntCounterVec,
    webhooks: IntCounterVec,
    witness_requests: IntCounterVec,
    witness_receipts: IntGaugeVec,
    witness_seen: IntGaugeVec,
    archive_receipts: IntGaugeVec,
    archive_success: IntGaugeVec,
    archive_failures: IntCounterVec,
    health: Health,
}

/// Whether the daemon works.
#[derive(Debug, Default)]
pub struct Health {
    ready: AtomicBool,
    beat_ns: AtomicU64,
}

impl Metrics {
    /// Registers everything. Fails only on a duplicate name, which the tests rule out.
    pub fn new() -> prometheus::Result<Arc<Self>> {
        let registry = Registry::new();
        let counter = |name: &str, help: &str| {
            let c = IntCounter::new(name, help)?;
            registry.register(Box::new(c.clone()))?;
            prometheus::Result::Ok(c)
        };
        let gauge = |name: &str, help: &str| {
            let g = IntGauge::new(name, help)?;
            registry.register(Box::new(g.clone()))?;
            prometheus::Result::Ok(g)
        };
        let histogram = |name: &str, help: &str, buckets: &[f64]| {
            let h = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))?;
            registry.register(Box::new(h.clone()))?;
            prometheus::Result::Ok(h)
        };
        let table = IntCounterVec::new(
            Opts::new(
                "aarm_actions_total",
                "Actions by operation and decision; AUDIT: an audit policy would have denied",
            ),
            &["operation", "decision"],
        )?;
        registry.register(Box::new(table.clone()))?;
        let mut actions: Vec<[Option<IntCounter>; OUTCOMES]> = Vec::new();
        actions.resize_with(OPERATIONS, Default::default);
        for op in Operation::ALL.iter().filter(|op| op.is_decided()) {
            let row = &mut actions[*op as usize];
            for decision in Decision::ALL {
                row[*decision as usize] = Some(table.with_label_values(&[op.name(), decision.name()]));
            }
            row[OUTCOME_AUDIT] = Some(table.with_label_values(&[op.name(), AUDITED]));
        }
        let answers = IntCounterVec::new(
            Opts::new("aarm_hold_answers_total", "What became of actions that waited, by method and answer"),
            &["method", "answer"],
        )?;
        registry.register(Box::new(answers.clone()))?;
        let webhooks = IntCounterVec::new(
            Opts::new("aarm_webhooks_total", "What was told to webhooks, or could not be"),
            &["result"],
        )?;
        registry.register(Box::new(webhooks.clone()))?;
        let witness_requests = IntCounterVec::new(
            Opts::new(
                "aarm_witness_requests_total",
                "Requests to witnesses by result; `disagrees` (it has seen another log) must stay 0",
            ),
            &["witness", "result"],
        )?;
        registry.register(Box::new(witness_requests.clone()))?;
        let archive_failures = IntCounterVec::new(
            Opts::new(
                "aarm_archive_failures_total",
                "Times that the log was not archived, by reason; `disagrees` (another history is archived) must stay 0",
            ),
            &["url", "reason"],
        )?;
        registry.register(Box::new(archive_failures.clone()))?;
        let of_each = |name: &str, help: &str, label: &str| {
            let g = IntGaugeVec::new(Opts::new(name, help), &[label])?;
            registry.register(Box::new(g.clone()))?;
            prometheus::Result::Ok(g)
        };
        let mut kernel = Vec::new();
        for stat in Stat::ALL {
            let c = counter(
                &format!("aarm_kernel_{}_total", stat.name()),
                &format!("Kernel counter `{}`", stat.name()),
            )?;
            kernel.push((*stat, c));
        }
        let info = IntGauge::with_opts(
            Opts::new("aarm_build_info", "Version of the daemon and of its kernel ABI")
                .const_label("version", env!("CARGO_PKG_VERSION"))
                .const_label("abi", ABI_VERSION.to_string()),
        )?;
        info.set(1);
        registry.register(Box::new(info))?;
        Ok(Arc::new(Self {
            actions,
            kernel,
            received: counter("aarm_events_received_total", "Events taken from the ring")?,
            lost: counter("aarm_events_lost_total", "Events known to be lost; must stay 0")?,
            undecodable: counter("aarm_events_undecodable_total", "Events that could not be decoded")?,
            ring_fill: gauge("aarm_ring_fill_bytes", "Bytes in the ring that wait to be read")?,
            decision: histogram("aarm_decision_seconds", "Time from hook entry to event", DECISION_BUCKETS)?,
            pipeline: histogram(
                "aarm_pipeline_seconds",
                "Time from event to durable receipt",
                PIPELINE_BUCKETS,
            )?,
            sessions: gauge("aarm_sessions", "Sessions alive")?,
            receipts: counter("aarm_receipts_total", "Receipts made durable")?,
            receipt_bytes: counter("aarm_receipt_bytes_total", "Bytes of receipts made durable")?,
            syncs: counter("aarm_log_syncs_total", "Syncs of the receipt log")?,
            checkpoints: counter("aarm_log_checkpoints_total", "Checkpoints signed")?,
            withheld_lost: counter("aarm_redacted_lost_total", "Redacted values that could not be kept")?,
            pruned: counter(
                "aarm_log_pruned_receipts_total",
                "Receipts taken out of the log, as its retention says",
            )?,
            backpressure: counter(
                "aarm_backpressure_turns_total",
                "Turns that left events in the ring because the log was behind",
            )?,
            slow_watchers: counter(
                "aarm_slow_watchers_total",
                "Watch streams cut off because their client was too slow",
            )?,
            policies: gauge("aarm_policies", "Policies loaded")?,
            waiting: gauge("aarm_holds", "Actions that wait for an answer")?,
            answers,
            webhooks,
            witness_requests,
            witness_receipts: of_each(
                "aarm_witness_receipts",
                "Receipts that a witness has seen",
                "witness",
            )?,
            witness_seen: of_each(
                "aarm_witness_seen_timestamp_seconds",
                "When a witness has seen the log last, by its clock",
                "witness",
            )?,
            archive_receipts: of_each("aarm_archive_receipts", "Receipts that are archived", "url")?,
            archive_success: of_each(
                "aarm_archive_success_timestamp_seconds",
                "When the archive was where the log was last",
                "url",
            )?,
            archive_failures,
            registry,
            health: Health::default(),
        }))
    }

    /// Counts an action. `outcome`: `Decision as usize`, or [`OUTCOME_AUDIT`].
    #[inline]
    pub fn action(&self, op: Operation, outcome: usize) {
        if let Some(counter) = &self.actions[op as usize % OPERATIONS][outcome % OUTCOMES] {
            counter.inc();
        }
    }

    /// Counts what was told elsewhere, or could not be.
    pub fn webhooks(&self, told: bool) {
        self.webhooks.with_label_values(&[if told { "told" } else { "failed" }]).inc();
    }

    /// Counts what became of a request to a witness, and what it has seen, and when.
    pub fn witness(&self, name: &str, result: WitnessResult, receipts: u64, seconds: Option<u64>) {
        self.witness_requests.with_label_values(&[name, result.name()]).inc();
        self.witness_receipts.with_label_values(&[name]).set(receipts as i64);
        self.witness_seen.with_label_values(&[name]).set(seconds.unwrap_or_default() as i64);
    }

    /// What is archived, and when that was so.
    pub fn archived(&self, url: &str, receipts: u64, seconds: u64) {
        self.archive_receipts.with_label_values(&[url]).set(receipts as i64);
        self.archive_success.with_label_values(&[url]).set(seconds as i64);
    }

    /// Counts what kept something from being archived.
    pub fn not_archived(&self, url: &str, reason: &str) {
        self.archive_failures.with_label_values(&[url, reason]).inc();
    }

    /// Counts what became of a hold.
    pub fn answered(&self, method: &str, answer: &str) {
        self.answers.with_label_values(&[method, answer]).inc();
    }

    /// Takes over the kernel's counters. They only grow while the maps live.
    pub fn set_kernel(&self, stats: &[u64; STATS]) {
        for (stat, counter) in &self.kernel {
            counter.inc_by(stats[*stat as usize].saturating_sub(counter.get()));
        }
    }

    /// The text a scrape gets.
    pub fn text(&self) -> Vec<u8> {
        let mut text = Vec::with_capacity(32 << 10);
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "cannot encode metrics");
        }
        text
    }

    /// The core is alive, at this boot time.
    pub fn beat(&self, now_ns: u64) {
        self.health.beat_ns.store(now_ns, Ordering::Relaxed);
    }

    /// Whether the core was heard of lately.
    pub fn healthy(&self, now_ns: u64) -> bool {
        let beat = self.health.beat_ns.load(Ordering::Relaxed);
        beat != 0 && now_ns.saturating_sub(beat) < HEARTBEAT_MAX.as_nanos() as u64
    }

    /// Whether decisions are recorded: set by the daemon.
    pub fn set_ready(&self, ready: bool) {
        self.health.ready.store(ready, Ordering::Relaxed);
    }

    /// See [`Metrics::set_ready`].
    pub fn ready(&self) -> bool {
        self.health.ready.load(Ordering::Relaxed)
    }
}

/// The endpoint's routes.
pub fn router(metrics: Arc<Metrics>) -> Router {
    Router::new()
        .route("/metrics", get(scrape))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(metrics)
}

async fn scrape(State(metrics): State<Arc<Metrics>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], metrics.text())
}

async fn healthz(State(metrics): State<Arc<Metrics>>) -> impl IntoResponse {
    if metrics.healthy(crate::kernel::boot_ns()) {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the core task does not answer\n")
    }
}

async fn readyz(State(metrics): State<Arc<Metrics>>) -> impl IntoResponse {
    if metrics.ready() && metrics.healthy(crate::kernel::boot_ns()) {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready: see `aarm doctor` or the daemon's log\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_documented_ones_are_there() {
        let m = Metrics::new().unwrap();
        m.action(Operation::Exec, Decision::Deny as usize);
        m.action(Operation::Connect, OUTCOME_AUDIT);
        m.action(Operation::Signal, Decision::Deny as usize);
        let mut stats = [0; STATS];
        stats[Stat::RingFull as usize] = 3;
        m.set_kernel(&stats);
        m.set_kernel(&stats);
        let text = String::from_utf8(m.text()).unwrap();
        for line in [
            "aarm_actions_total{decision=\"DENY\",operation=\"exec\"} 1",
            "aarm_actions_total{decision=\"AUDIT\",operation=\"connect\"} 1",
            "aarm_actions_total{decision=\"ALLOW\",operation=\"exec\"} 0",
            "aarm_events_received_total 0",
            "aarm_events_lost_total 0",
            "aarm_ring_fill_bytes 0",
            "aarm_decision_seconds_count 0",
            "aarm_pipeline_seconds_count 0",
            "aarm_sessions 0",
            "aarm_receipts_total 0",
            "aarm_kernel_ring_full_total 3",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
        assert!(text.contains("aarm_build_info{"));
    }

    #[test]
    fn health_follows_the_heartbeat() {
        let m = Metrics::new().unwrap();
        assert!(!m.healthy(5));
        m.beat(5);
        assert!(m.healthy(6));
        assert!(!m.healthy(6 + HEARTBEAT_MAX.as_nanos() as u64));
    }
}
