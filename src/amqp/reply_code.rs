//! Reply codes (specification 1.2) and how much each of them closes.

/// A reply code with the name RabbitMQ puts before its explanation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum ReplyCode {
    Success = 200,
    ContentTooLarge = 311,
    NoRoute = 312,
    NoConsumers = 313,
    ConnectionForced = 320,
    InvalidPath = 402,
    AccessRefused = 403,
    NotFound = 404,
    ResourceLocked = 405,
    PreconditionFailed = 406,
    FrameError = 501,
    SyntaxError = 502,
    CommandInvalid = 503,
    ChannelError = 504,
    UnexpectedFrame = 505,
    ResourceError = 506,
    NotAllowed = 530,
    NotImplemented = 540,
    InternalError = 541,
}

/// The longest reply text: a short string on the wire.
const TEXT_BYTES_MAX: usize = 255;
/// A longer word is no word, but a name that somebody has thought of.
const WORD_BYTES: usize = 40;

impl ReplyCode {
    /// The number on the wire.
    pub fn number(self) -> u16 {
        self as u16
    }

    /// Whether it closes the connection, not just the channel ("hard error").
    pub fn closes_connection(self) -> bool {
        self == Self::ConnectionForced || self == Self::InvalidPath || self.number() >= 500
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Success => "REPLY_SUCCESS",
            Self::ContentTooLarge => "CONTENT_TOO_LARGE",
            Self::NoRoute => "NO_ROUTE",
            Self::NoConsumers => "NO_CONSUMERS",
            Self::ConnectionForced => "CONNECTION_FORCED",
            Self::InvalidPath => "INVALID_PATH",
            Self::AccessRefused => "ACCESS_REFUSED",
            Self::NotFound => "NOT_FOUND",
            Self::ResourceLocked => "RESOURCE_LOCKED",
            Self::PreconditionFailed => "PRECONDITION_FAILED",
            Self::FrameError => "FRAME_ERROR",
            Self::SyntaxError => "SYNTAX_ERROR",
            Self::CommandInvalid => "COMMAND_INVALID",
            Self::ChannelError => "CHANNEL_ERROR",
            Self::UnexpectedFrame => "UNEXPECTED_FRAME",
            Self::ResourceError => "RESOURCE_ERROR",
            Self::NotAllowed => "NOT_ALLOWED",
            Self::NotImplemented => "NOT_IMPLEMENTED",
            Self::InternalError => "INTERNAL_ERROR",
        }
    }

    /// `NAME - explanation`; if it does not fit a short string, cut and with dots at the end, as RabbitMQ does: behind a
    /// word, or within one that is long.
    pub fn text(self, explanation: &str) -> String {
        let mut text = format!("{} - {explanation}", self.name());
        if text.len() > TEXT_BYTES_MAX {
            truncate(&mut text, TEXT_BYTES_MAX - 3);
            if let Some(space) = text.rfind(' ').filter(|space| text.len() - space <= WORD_BYTES) {
                text.truncate(space);
            }
            text.push_str("...");
        }
        text
    }
}

/// Cuts `text` to at most `bytes` octets without splitting a character.
pub fn truncate(text: &mut String, bytes: usize) {
    if text.len() > bytes {
        let cut = (0..=bytes).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        text.truncate(cut);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_behind_a_word_or_at_a_character() {
        let text = ReplyCode::NotFound.text(&"ä".repeat(300));
        assert!((250..=255).contains(&text.len()) && text.starts_with("NOT_FOUND - ää") && text.ends_with("ä..."));
        let text = ReplyCode::NotFound.text(&"words ".repeat(100));
        assert!((240..=255).contains(&text.len()) && text.ends_with("words words..."), "{text}");
    }
}
