//! Splits Rust source into tokens, for scans that need to tell code from prose.
//! It knows comments and literals, not grammar.

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A word, or any other visible character by itself.
    Code,
    /// A comment with its marks.
    Comment,
    /// A string with its quotes.
    String,
    /// A character, or a raw string.
    Literal,
}

/// A piece of source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// What it is.
    pub kind: Kind,
    /// Its text.
    pub text: String,
    /// The line it begins in, from 1.
    #[allow(dead_code)] // Not every scan asks where.
    pub line: usize,
}

/// The tokens of a text, in order. Text that ends in the middle of a literal or a
/// comment ends with it.
pub fn read(source: &str) -> Vec<Token> {
    let text: Vec<char> = source.chars().collect();
    let at = |n: usize| text.get(n).copied().unwrap_or('\0');
    let in_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut out = Vec::new();
    let (mut i, mut line) = (0, 1);
    while i < text.len() {
        let start = i;
        match at(i) {
            '/' if at(i + 1) == '/' => {
                while i < text.len() && at(i) != '\n' {
                    i += 1;
                }
            }
            '/' if at(i + 1) == '*' => i = after_comment(&text, i),
            '"' => i = after_string(&text, i),
            'r' | 'b' | 'c' if raw_string(&text, i).is_some() => {
                i = raw_string(&text, i).unwrap_or(text.len());
            }
            // A character, not a lifetime: 'x' or an escape.
            '\'' if at(i + 1) == '\\' => {
                i += 3;
                while i < text.len() && at(i) != '\'' {
                    i += 1;
                }
                i += 1;
            }
            '\'' if at(i + 2) == '\'' => i += 3,
            c if in_word(c) => {
                while in_word(at(i)) {
                    i += 1;
                }
            }
            _ => i += 1,
        }
        let end = i.min(text.len());
        let first = text[start];
        let long = end - start > 1;
        let kind = match first {
            '/' if long => Kind::Comment,
            '"' => Kind::String,
            '\'' if long => Kind::Literal,
            // The raw strings: words do not end so.
            _ if long && text.get(end - 1).is_some_and(|last| !in_word(*last)) => Kind::Literal,
            _ => Kind::Code,
        };
        if !first.is_whitespace() {
            let text = text[start..end].iter().collect();
            out.push(Token { kind, text, line });
        }
        line += text[start..end].iter().filter(|c| **c == '\n').count();
    }
    out
}

/// The end of a raw string (`r#"…"#`, with `b` or `c` before) that starts here.
fn raw_string(text: &[char], from: usize) -> Option<usize> {
    let at = |n: usize| text.get(n).copied().unwrap_or('\0');
    let r = from + usize::from(at(from) != 'r');
    if at(r) != 'r' {
        return None;
    }
    let hashes = (r + 1..).take_while(|n| at(*n) == '#').count();
    if at(r + 1 + hashes) != '"' {
        return None;
    }
    let mut i = r + 2 + hashes;
    while i < text.len() {
        let after = i + 1 + hashes;
        if text[i] == '"' && (i + 1..after).all(|n| at(n) == '#') {
            return Some(after);
        }
        i += 1;
    }
    Some(i)
}

fn after_string(text: &[char], from: usize) -> usize {
    let mut i = from + 1;
    while i < text.len() {
        match text[i] {
            '\\' => i += 2,
            '"' => return i + 1,
            _ => i += 1,
        }
    }
    i
}

fn after_comment(text: &[char], from: usize) -> usize {
    let mut depth = 0usize;
    let mut i = from;
    while i < text.len() {
        match (text[i], text.get(i + 1)) {
            ('/', Some('*')) => {
                depth += 1;
                i += 2;
            }
            ('*', Some('/')) => {
                depth -= 1;
                i += 2;
                if depth == 0 {
                    return i;
                }
            }
            _ => i += 1,
        }
    }
    i
}
