//! Congestion control is Cubic's, but the close of a connection does not wait for it.
//!
//! quinn-proto makes no packet of a close while the window is full of what is not acknowledged, and
//! takes no acknowledgement after it, so that the peer would learn of the close from its idle
//! time-out only (quinn-rs/quinn#2785, in all of 0.11). A connection's window is therefore opened
//! when it closes; this file can go with the release that needs it no more.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics, CubicConfig};
use quinn_proto::RttEstimator;

/// A window that holds nothing back, nor paces: the least that quinn-proto takes for one.
const OPEN: u64 = 1 << 32;

/// The windows of an endpoint's connections, to be opened when it closes all of them.
#[derive(Debug, Clone, Default)]
pub struct Windows {
    open: Arc<AtomicBool>,
}

impl Windows {
    /// Opens all.
    pub(super) fn open(&self) {
        self.open.store(true, Ordering::Relaxed);
    }
}

impl ControllerFactory for Windows {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Window {
            cubic: Arc::new(CubicConfig::default()).build(now, current_mtu),
            open: Arc::default(),
            all_open: self.open.clone(),
        })
    }
}

/// Opens the window of one connection.
pub(super) fn open(connection: &quinn::Connection) {
    if let Ok(window) = connection
        .congestion_state()
        .into_any()
        .downcast::<Window>()
    {
        window.open.store(true, Ordering::Relaxed);
    }
}

struct Window {
    cubic: Box<dyn Controller>,
    open: Arc<AtomicBool>,
    all_open: Arc<AtomicBool>,
}

impl Controller for Window {
    fn window(&self) -> u64 {
        match self.open.load(Ordering::Relaxed) || self.all_open.load(Ordering::Relaxed) {
            true => OPEN,
            false => self.cubic.window(),
        }
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Window {
            cubic: self.cubic.clone_box(),
            open: self.open.clone(),
            all_open: self.all_open.clone(),
        })
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }

    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.cubic.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        self.cubic.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        self.cubic
            .on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.cubic
            .on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.cubic.on_mtu_update(new_mtu);
    }

    fn metrics(&self) -> ControllerMetrics {
        self.cubic.metrics()
    }

    fn initial_window(&self) -> u64 {
        self.cubic.initial_window()
    }
}
