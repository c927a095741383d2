//! What is wrong with a configuration, and where.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use super::values::redact;

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Greppable: `WS-CFG-…`.
    pub code: &'static str,
    /// What happened.
    pub what: String,
    /// Why it is a mistake.
    pub why: String,
    /// What to do.
    pub fix: String,
    /// Bytes in the file (end exclusive), where the mistake has a place there.
    pub span: Option<Range<usize>>,
}

/// The text of a file that was read, for pointing into it. Settings from the environment and from flags have places
/// after the file's end, one byte each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileText {
    /// As it was given.
    pub path: PathBuf,
    /// Its content.
    pub text: String,
    /// Where settings that replace the file's come from: `WATERSHED_NODE_NAME`, `--listen`.
    pub overrides: Vec<String>,
}

impl FileText {
    /// 1-based line and column (in characters), and the line's text, of a byte of the file.
    pub fn line(&self, offset: usize) -> Option<(usize, usize, &str)> {
        let before = self.text.get(..offset)?;
        let start = before.rfind('\n').map_or(0, |at| at + 1);
        let end = self.text[offset..].find('\n').map_or(self.text.len(), |at| offset + at);
        let line = self.text[start..end].trim_end_matches('\r');
        Some((before.matches('\n').count() + 1, before[start..].chars().count() + 1, line))
    }

    /// The place of the setting that replaced others as number `index`.
    pub(super) fn override_span(&self, index: usize) -> Range<usize> {
        let at = self.text.len() + 1 + index;
        at..at + 1
    }

    fn snippet(&self, span: &Range<usize>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(from) = span.start.checked_sub(self.text.len() + 1).and_then(|index| self.overrides.get(index)) {
            return writeln!(f, "  --> {from}");
        }
        let Some((number, column, line)) = self.line(span.start) else { return Ok(()) };
        let width = self.text.get(span.clone()).map_or(1, |text| text.lines().next().unwrap_or("").chars().count());
        let carets = "^".repeat(width.clamp(1, (line.chars().count() + 1).saturating_sub(column).max(1)));
        let gutter = " ".repeat(number.to_string().len());
        writeln!(f, "{gutter}--> {}:{number}:{column}", self.path.display())?;
        writeln!(f, "{gutter} |")?;
        writeln!(f, "{number} | {}", hide_secrets(line))?;
        writeln!(f, "{gutter} | {}{carets}", " ".repeat(column - 1))
    }
}

/// A line of the file as it may be shown: passwords in URLs and values of keys that sound secret are hidden, and
/// tabs take one column.
fn hide_secrets(line: &str) -> String {
    let mut line = redact(&line.replace('\t', " "));
    for word in ["token", "secret", "password"] {
        let mut from = 0;
        // Lower-casing ASCII keeps every byte's place.
        while let Some(found) = line[from..].to_ascii_lowercase().find(word) {
            let after = from + found + word.len();
            let secret = secret_after(&line[after..]).map(|secret| after + secret.start..after + secret.end);
            if let Some(secret) = secret {
                let hidden = "*".repeat(line[secret.clone()].chars().count());
                line.replace_range(secret, &hidden);
            }
            from = after;
        }
    }
    line
}

/// Where the value stands that follows a key's name: `= "…"`, `": '…'`.
fn secret_after(text: &str) -> Option<Range<usize>> {
    let rest = text.trim_start_matches(['"', '\'']).trim_start();
    let value = rest.strip_prefix(['=', ':'])?.trim_start();
    let start = text.len() - value.len();
    let quote = value.chars().next().filter(|c| matches!(c, '"' | '\'' | '`'));
    let length = match quote {
        // An escaped quote does not end it; what is not closed is hidden to its end.
        Some(quote) => {
            let mut escaped = true;
            let end = value.char_indices().find(|(_, c)| {
                let ends = *c == quote && !escaped;
                escaped = *c == '\\' && !escaped;
                ends
            });
            end.map_or(value.len(), |(at, c)| at + c.len_utf8())
        }
        None => value.find([',', '}', ' ', ';']).unwrap_or(value.len()),
    };
    Some(start..start + length)
}

/// A configuration that cannot be used, with every mistake found. `Display` gives them all, each as
/// `error[CODE]: what` / place / `why: …` / `do: …`.
#[derive(Clone, Debug)]
pub struct ConfigError {
    mistakes: Vec<Mistake>,
    file: Arc<FileText>,
}

impl ConfigError {
    /// At least one mistake, in the order of the file.
    pub fn new(mut mistakes: Vec<Mistake>, file: Arc<FileText>) -> ConfigError {
        mistakes.sort_by_key(|mistake| mistake.span.as_ref().map_or(0, |span| span.start));
        ConfigError { mistakes, file }
    }

    /// What is wrong.
    pub fn mistakes(&self) -> &[Mistake] {
        &self.mistakes
    }

    /// The 1-based line of a mistake.
    pub fn line_of(&self, mistake: &Mistake) -> Option<usize> {
        self.file.line(mistake.span.as_ref()?.start).map(|(line, ..)| line)
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.mistakes.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            writeln!(f, "error[{}]: {}", mistake.code, mistake.what)?;
            if let Some(span) = &mistake.span {
                self.file.snippet(span, f)?;
            }
            write!(f, "why: {}\ndo: {}", mistake.why, mistake.fix)?;
            if index + 1 < self.mistakes.len() {
                writeln!(f)?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_hidden_wherever_they_stand_in_a_line() {
        let cases = [
            ("password = \"pass1\"", "password = *******"),
            ("{ host: 'a', password: 'it\\'s', user: 5 }", "{ host: 'a', password: *******, user: 5 }"),
            ("\"password\":\"x\",\"token\" : y}", "\"password\":***,\"token\" : *}"),
            ("Password: 'open, user: 1", "Password: **************"),
            ("password_env = \"NAME\"", "password_env = \"NAME\""),
            ("url = \"postgres://a:b@c/d\"", "url = \"postgres://a:*@c/d\""),
        ];
        for (line, shown) in cases {
            assert_eq!(hide_secrets(line), shown);
        }
    }
}
