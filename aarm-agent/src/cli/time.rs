//! Points in time: `--since`, and how moments are shown.

use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};

/// Reads `--since`: a time ago (`90s`, `10m`, `2h`, `1h30m`, `3d`) or a moment (RFC 3339).
pub fn since(text: &str) -> Result<Timestamp, String> {
    since_at(text, Timestamp::now())
}

fn since_at(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    let text = text.trim();
    if let Ok(moment) = text.parse::<Timestamp>() {
        return Ok(moment);
    }
    // "10" alone would be read as nothing by some and as seconds by others.
    let span: Span = text.parse().map_err(|_| {
        "neither a time ago (90s, 10m, 2h, 3d) nor a moment (2026-11-24T10:00:00Z)".to_owned()
    })?;
    if span.is_negative() || span.is_zero() {
        return Err("the time ago must be more than nothing".into());
    }
    now.to_zoned_datetime(TimeZone::UTC)
        .checked_sub(span)
        .map(|z| z.timestamp())
        .map_err(|_| "too long ago".to_owned())
}

/// Shows moments in the host's time zone.
pub struct Clock(TimeZone);

impl Clock {
    /// The host's time zone; UTC where it has none.
    pub fn local() -> Self {
        Self(TimeZone::try_system().unwrap_or(TimeZone::UTC))
    }

    /// `10:14:05.123`.
    pub fn time(&self, moment: Timestamp) -> String {
        moment.to_zoned_datetime(self.0.clone()).strftime("%H:%M:%S.%3f").to_string()
    }

    /// `2026-11-24 10:14:05` of RFC 3339 text; text that is not a moment comes back as it is.
    pub fn seconds(&self, text: &str) -> String {
        match text.parse::<Timestamp>() {
            Ok(moment) => moment.to_zoned_datetime(self.0.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
            Err(_) => super::escape::value(text).into_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ago(text: &str) -> Result<String, String> {
        let now: Timestamp = "2026-11-24T10:00:00Z".parse().unwrap();
        since_at(text, now).map(|t| t.to_string())
    }

    #[test]
    fn times_ago() {
        for (text, moment) in [
            ("90s", "2026-11-24T09:58:30Z"),
            ("10m", "2026-11-24T09:50:00Z"),
            ("2h", "2026-11-24T08:00:00Z"),
            (" 1h30m ", "2026-11-24T08:30:00Z"),
            ("3d", "2026-11-21T10:00:00Z"),
            ("1w", "2026-11-17T10:00:00Z"),
            ("500ms", "2026-11-24T09:59:59.5Z"),
        ] {
            assert_eq!(ago(text).as_deref(), Ok(moment), "{text}");
        }
    }

    #[test]
    fn moments() {
        assert_eq!(ago("2026-11-24T09:00:00Z").as_deref(), Ok("2026-11-24T09:00:00Z"));
        assert_eq!(ago("2026-11-24T09:00:00.25+02:00").as_deref(), Ok("2026-11-24T07:00:00.25Z"));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in
            ["", "10", "m", "-10m", "0s", "tomorrow", "99999999999999999y", "19998y", "2026-13-01T00:00:00Z"]
        {
            assert!(ago(text).is_err(), "{text}: {:?}", ago(text));
        }
    }

    #[test]
    fn shown() {
        let clock = Clock(TimeZone::UTC);
        let t: Timestamp = "2026-11-24T10:00:00.0126Z".parse().unwrap();
        assert_eq!(clock.time(t), "10:00:00.012");
        assert_eq!(clock.seconds("2026-11-24T10:00:00.0126Z"), "2026-11-24 10:00:00");
        assert_eq!(clock.seconds("\x1b[m"), "\\u{1b}[m");
    }
}
