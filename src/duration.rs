//! DUR values on the command line, and durations in messages.

use std::time::Duration;

/// A duration, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// At most this long; zero means not at all.
    After(Duration),
    /// Without limit.
    Never,
}

impl Limit {
    /// The duration, or `None` if unbounded.
    pub fn finite(self) -> Option<Duration> {
        match self {
            Limit::After(duration) => Some(duration),
            Limit::Never => None,
        }
    }
}

/// Parses a DUR: seconds (`10`, `0.5`, `.007`) or the form of humantime (`90s`,
/// `1m 30s`, `500ms`). An error says what is allowed.
pub fn parse(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    if text.starts_with('-') {
        return Err("a time cannot be negative".into());
    }
    let parsed = match seconds(text) {
        Some(duration) => duration,
        None => humantime::parse_duration(text).ok(),
    };
    parsed.ok_or_else(|| "not a time; write seconds (10, 0.5) or a time with units (90s, 1m 30s, 500ms)".into())
}

/// Parses a DUR, `forever` or `-1`.
pub fn parse_limit(text: &str) -> Result<Limit, String> {
    match text.trim() {
        "forever" | "-1" => Ok(Limit::Never),
        other => parse(other).map(Limit::After).map_err(|e| e + ", -1 or forever"),
    }
}

/// Parses a DUR above zero, or `forever`.
pub fn parse_expiry(text: &str) -> Result<Limit, String> {
    match parse_limit(text)? {
        Limit::After(Duration::ZERO) => Err("a lock that expires at once protects nothing".into()),
        limit => Ok(limit),
    }
}

/// `None` if the text is not a bare number; `Some(None)` if it is too large.
fn seconds(text: &str) -> Option<Option<Duration>> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !digits(whole) || !digits(fraction) {
        return None;
    }
    let whole = if whole.is_empty() { Some(0) } else { whole.parse::<u64>().ok() };
    let nanoseconds = format!("{fraction:0<9.9}").parse::<u32>().unwrap_or(0);
    Some(whole.map(|whole| Duration::new(whole, nanoseconds)))
}

/// At most two units: `3m12s`, `1d4h`, `10s`, `500ms`.
pub fn display(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds == 0 {
        let milliseconds = duration.as_millis();
        return if milliseconds == 0 { "0s".into() } else { format!("{milliseconds}ms") };
    }
    if seconds < 10 && duration.subsec_millis() >= 100 {
        return format!("{seconds}.{}s", duration.subsec_millis() / 100);
    }
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let mut rest = seconds;
    let mut shown = String::new();
    let mut units = 0;
    for (size, unit) in UNITS {
        let count = rest / size;
        rest %= size;
        if count > 0 {
            shown += &format!("{count}{unit}");
        }
        if !shown.is_empty() {
            units += 1;
            if units == 2 {
                break;
            }
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bare_numbers_are_seconds() {
        assert_eq!(parse("10"), Ok(Duration::from_secs(10)));
        assert_eq!(parse("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(parse(".007"), Ok(Duration::from_millis(7)));
        assert_eq!(parse("0"), Ok(Duration::ZERO));
        assert_eq!(parse("1."), Ok(Duration::from_secs(1)));
        assert_eq!(parse("0.1234567891"), Ok(Duration::from_nanos(123_456_789)));
    }

    #[test]
    fn units_are_those_of_humantime() {
        assert_eq!(parse("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse("1m 30s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse("500ms"), Ok(Duration::from_millis(500)));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", ".", "abc", "1e400", "-5", "inf", "NaN", "1.2.3", "0x10", "99999999999999999999", "1,5"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse_expiry("0").is_err());
    }

    #[test]
    fn no_limit_has_two_spellings() {
        assert_eq!(parse_limit("-1"), Ok(Limit::Never));
        assert_eq!(parse_limit("forever"), Ok(Limit::Never));
        assert!(parse_limit("-2").is_err());
    }

    #[test]
    fn people_see_two_units() {
        let shown = |seconds| display(Duration::from_secs(seconds));
        assert_eq!(shown(192), "3m12s");
        assert_eq!(shown(10), "10s");
        assert_eq!(shown(3600), "1h");
        assert_eq!(shown(3605), "1h");
        assert_eq!(shown(100_000), "1d3h");
        assert_eq!(display(Duration::from_millis(500)), "500ms");
        assert_eq!(display(Duration::from_millis(1200)), "1.2s");
    }
}
