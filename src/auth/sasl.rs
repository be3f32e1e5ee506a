//! SASL: how a client says who it is.

use super::Secret;
use crate::amqp::table::{Field, Fields};

/// The ways to log in, by their names in connection.start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    Plain,
    AmqPlain,
    External,
    Anonymous,
}

impl Mechanism {
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "PLAIN" => Self::Plain,
            "AMQPLAIN" => Self::AmqPlain,
            "EXTERNAL" => Self::External,
            "ANONYMOUS" => Self::Anonymous,
            _ => return None,
        })
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::AmqPlain => "AMQPLAIN",
            Self::External => "EXTERNAL",
            Self::Anonymous => "ANONYMOUS",
        }
    }
}

/// What a client's response says; who that is, is decided elsewhere.
#[derive(Debug, Clone)]
pub enum Login {
    Password {
        user: String,
        /// May be blank, which [`super::verify`] refuses.
        password: Secret,
    },
    /// By the certificate that the TLS connection has.
    External,
    Anonymous,
}

/// Why a response says nothing: 502 for the connection. The response itself is never repeated, it may hold a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// Reads the response of connection.start-ok.
pub fn login(mechanism: Mechanism, response: &[u8]) -> Result<Login, Malformed> {
    match mechanism {
        Mechanism::Plain => plain(response),
        Mechanism::AmqPlain => amqplain(response),
        Mechanism::External => Ok(Login::External),
        Mechanism::Anonymous => Ok(Login::Anonymous),
    }
}

/// RFC 4616: an identity to act as, the user and the password, with NUL between them. RabbitMQ refuses an identity that
/// isn't empty.
fn plain(response: &[u8]) -> Result<Login, Malformed> {
    let mut parts = response.split(|octet| *octet == 0);
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some([]), Some(user), Some(password), None) => by_password(user, password),
        _ => Err(Malformed("PLAIN response invalid")),
    }
}

/// A field table without its length, with the fields `LOGIN` and `PASSWORD`.
fn amqplain(response: &[u8]) -> Result<Login, Malformed> {
    let fields = Fields::check(response).map_err(|_| Malformed("AMQPLAIN auth info is no table"))?;
    let text = |key: &[u8]| match fields.get(key) {
        Some(Field::LongStr(octets) | Field::Bytes(octets)) => Ok(octets),
        Some(_) => Err(Malformed("AMQPLAIN auth info uses unsupported type for LOGIN or PASSWORD field")),
        None => Err(Malformed("AMQPLAIN auth info is missing LOGIN or PASSWORD field")),
    };
    by_password(text(b"LOGIN")?, text(b"PASSWORD")?)
}

fn by_password(user: &[u8], password: &[u8]) -> Result<Login, Malformed> {
    let text = |octets: &[u8]| String::from_utf8(octets.to_vec()).map_err(|_| Malformed("response is not UTF-8"));
    Ok(Login::Password { user: text(user)?, password: Secret::new(text(password)?) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(mechanism: Mechanism, response: &[u8]) -> Result<(String, String), &'static str> {
        match login(mechanism, response) {
            Ok(Login::Password { user, password }) => Ok((user, password.expose().to_owned())),
            Ok(other) => panic!("{other:?}"),
            Err(Malformed(why)) => Err(why),
        }
    }

    fn pair(user: &str, password: &str) -> Result<(String, String), &'static str> {
        Ok((user.to_owned(), password.to_owned()))
    }

    #[test]
    fn plain_is_three_texts_with_nul_between() {
        let plain = |response: &[u8]| read(Mechanism::Plain, response);
        assert_eq!(plain(b"\0guest\0geheim"), pair("guest", "geheim"));
        assert_eq!(plain(b"\0guest\0"), pair("guest", ""));
        for malformed in [&b""[..], b"guest", b"\0guest", b"\0guest\0a\0b", b"guest\0geheim", b"other\0guest\0geheim"] {
            assert_eq!(plain(malformed), Err("PLAIN response invalid"), "{malformed:?}");
        }
        assert_eq!(plain(b"\0gu\xffst\0x"), Err("response is not UTF-8"));
    }

    #[test]
    fn amqplain_is_a_table_without_its_length() {
        let amqplain = |response: &[u8]| read(Mechanism::AmqPlain, response);
        let login = b"\x05LOGINS\0\0\0\x05guest";
        let password = b"\x08PASSWORDS\0\0\0\x06geheim";
        assert_eq!(amqplain(&[&login[..], password].concat()), pair("guest", "geheim"));
        assert_eq!(amqplain(&[&password[..], login].concat()), pair("guest", "geheim"));
        assert_eq!(amqplain(login), Err("AMQPLAIN auth info is missing LOGIN or PASSWORD field"));
        assert_eq!(
            amqplain(&[&login[..], b"\x08PASSWORDI\0\0\0\x06"].concat()),
            Err("AMQPLAIN auth info uses unsupported type for LOGIN or PASSWORD field")
        );
        assert_eq!(amqplain(b"\0\0\0\0\x01"), Err("AMQPLAIN auth info is no table"));
    }

    #[test]
    fn a_password_does_not_show_in_a_login() {
        let login = login(Mechanism::Plain, b"\0guest\0geheim").unwrap();
        assert_eq!(format!("{login:?}"), "Password { user: \"guest\", password: <secret> }");
    }
}
