//! Receipts as they become durable, until somebody ends it.

use std::path::Path;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::client::{Client, Lines};
use super::exit::CliError;
use super::output::Output;
use crate::api::types::{ErrorBody, StreamLine, WatchQuery};

/// A stream of `/v1/watch`.
pub struct Following {
    lines: Lines,
    interrupt: Signal,
    terminate: Signal,
}

impl Following {
    /// Begins; the first line says so. Signals are waited for from now on: one that comes while a line is printed must not be missed.
    pub async fn begin(socket: &Path, query: &WatchQuery) -> Result<Self, CliError> {
        let failed = |source| CliError::System { what: "wait for signals", source };
        let interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let lines = Client::connect(socket).await?.stream("/v1/watch", query).await?;
        Ok(Self { lines, interrupt, terminate })
    }

    /// The next line: that it has begun, or a receipt. `None`: somebody has ended it.
    pub async fn next(&mut self, out: &mut Output) -> Result<Option<StreamLine>, CliError> {
        // Nothing may wait in the buffer while we wait for more.
        if !self.lines.ready() {
            out.flush()?;
        }
        let line = tokio::select! {
            line = self.lines.next() => line?,
            _ = self.interrupt.recv() => return Ok(None),
            _ = self.terminate.recv() => return Ok(None),
        };
        line.map(|line| unless_broken(line).map(Some)).unwrap_or(Err(CliError::Stopped))
    }
}

/// A line that does not end its stream.
pub fn unless_broken(line: StreamLine) -> Result<StreamLine, CliError> {
    match line {
        StreamLine::Lost { count } => Err(CliError::Lost { count }),
        StreamLine::Error { error } => {
            let body = ErrorBody { error, diagnostics: Vec::new() };
            Err(CliError::Refused { body: Box::new(body) })
        }
        line => Ok(line),
    }
}
