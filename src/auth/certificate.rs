//! Who a client's certificate is for: the user name that SASL EXTERNAL logs in with (`rabbit_ssl.erl`,
//! `rabbit_cert_info.erl`). That the certificate is to be trusted is TLS's to know.

use super::der::{self, Value, Values};
use std::fmt::Write as _;
use std::net::IpAddr;

/// Which part of a certificate is the user's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginFrom {
    /// The whole subject, as RFC 4514 writes it: `CN=client,O=Hares`.
    DistinguishedName,
    /// All common names, with commas between them.
    CommonName,
    /// One of the subject's alternative names: the `index`th of this type, from 0.
    AlternativeName(NameType, usize),
}

/// Types of alternative names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameType {
    Dns,
    Ip,
    Email,
    Uri,
    /// Whatever else, as long as it is a text.
    Other,
}

const COMMON_NAME: &str = "2.5.4.3";
const ALTERNATIVE_NAMES: &str = "2.5.29.17";

/// How RFC 4514 and RabbitMQ call the attributes of a name; others are written as numbers.
const ATTRIBUTES: [(&str, &str); 16] = [
    ("2.5.4.4", "SN"),
    ("2.5.4.42", "GIVENNAME"),
    ("2.5.4.43", "INITIALS"),
    ("2.5.4.44", "GENERATIONQUALIFIER"),
    ("2.5.4.3", "CN"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.12", "TITLE"),
    ("2.5.4.6", "C"),
    ("2.5.4.5", "SERIALNUMBER"),
    ("2.5.4.65", "PSEUDONYM"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("1.2.840.113549.1.9.1", "EMAILADDRESS"),
    ("0.9.2342.19200300.100.1.1", "UID"),
];

/// A certificate as RabbitMQ shows it to people; a part that can't be read is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shown {
    /// As the subject, the whole name.
    pub issuer: String,
    /// Hexadecimal.
    pub serial_number: String,
    pub subject: String,
    /// `2026-11-25T05:31:44Z - 2027-11-25T05:31:44Z`.
    pub validity: String,
}

/// What is of interest in a certificate (RFC 5280, 4.1).
#[derive(Debug)]
pub struct Certificate<'a> {
    serial: Value<'a>,
    issuer: Value<'a>,
    validity: Value<'a>,
    subject: Value<'a>,
    /// The public key in its envelope.
    pub key: Value<'a>,
    extensions: Values<'a>,
}

impl<'a> Certificate<'a> {
    /// Reads one (DER). Whether it may be believed is not looked at.
    pub fn read(octets: &'a [u8]) -> Option<Self> {
        let mut fields = Values::of(octets).next_of(der::SEQUENCE)?.values().next_of(der::SEQUENCE)?.values();
        let _version = fields.next_of(der::context(0, true));
        let serial = fields.next_of(der::INTEGER)?;
        let _signature = fields.next_of(der::SEQUENCE)?;
        let issuer = fields.next_of(der::SEQUENCE)?;
        let validity = fields.next_of(der::SEQUENCE)?;
        let (subject, key) = (fields.next_of(der::SEQUENCE)?, fields.next_of(der::SEQUENCE)?);
        let extensions = fields.find(|value| value.tag == der::context(3, true));
        let extensions = extensions.and_then(|value| value.values().next_of(der::SEQUENCE));
        Some(Self {
            serial,
            issuer,
            validity,
            subject,
            key,
            extensions: extensions.map_or(Values::of(&[]), Value::values),
        })
    }

    /// The user's name in it. `None` if it has none there, or none that can be read.
    pub fn user(&self, from: LoginFrom) -> Option<String> {
        let name = match from {
            LoginFrom::DistinguishedName => distinguished_name(self.subject)?,
            LoginFrom::CommonName => {
                let parts = self.subject.values().flat_map(Value::values).map(attribute).collect::<Option<Vec<_>>>()?;
                let names = parts.into_iter().filter(|(id, _)| id == COMMON_NAME);
                names.map(|(_, value)| text(value)).collect::<Option<Vec<_>>>()?.join(",")
            }
            LoginFrom::AlternativeName(kind, index) => self
                .alternative_names()?
                .filter(|name| name.tag == kind.tag())
                .nth(index)
                .and_then(|name| kind.text(name))?,
        };
        (!name.is_empty()).then_some(name)
    }

    /// From when until when it counts, as `2027-11-25T05:31:44Z`: such texts are in the order of their times.
    pub fn validity(&self) -> Option<(String, String)> {
        let mut times = self.validity.values();
        Some((moment(times.next()?)?, moment(times.next()?)?))
    }

    /// What people are shown of it.
    pub fn shown(&self) -> Shown {
        let serial: String = self.serial.contents.iter().map(|octet| format!("{octet:02X}")).collect();
        let mut validity = self.validity.values().map(|time| moment(time).unwrap_or_default());
        let (begin, end) = (validity.next().unwrap_or_default(), validity.next().unwrap_or_default());
        Shown {
            issuer: distinguished_name(self.issuer).unwrap_or_default(),
            serial_number: serial.trim_start_matches('0').to_owned(),
            subject: distinguished_name(self.subject).unwrap_or_default(),
            validity: format!("{begin} - {end}"),
        }
    }

    fn alternative_names(&self) -> Option<Values<'a>> {
        let mut extensions = self.extensions.filter_map(|extension| {
            let mut fields = extension.values();
            let id = fields.next_of(der::OBJECT_ID)?.id()?;
            // Whether it is critical may stand between.
            let names = fields.find(|value| value.tag == der::OCTET_STRING)?;
            (id == ALTERNATIVE_NAMES).then_some(names)
        });
        Some(extensions.next()?.contents).and_then(|names| Values::of(names).next_of(der::SEQUENCE)).map(Value::values)
    }
}

impl NameType {
    fn tag(self) -> u8 {
        match self {
            Self::Other => der::context(0, true),
            Self::Email => der::context(1, false),
            Self::Dns => der::context(2, false),
            Self::Uri => der::context(6, false),
            Self::Ip => der::context(7, false),
        }
    }

    fn text(self, name: Value<'_>) -> Option<String> {
        match self {
            Self::Email | Self::Dns | Self::Uri => String::from_utf8(name.contents.to_vec()).ok(),
            Self::Ip => address(name.contents).map(|address| address.to_string()),
            // The value lies in an envelope of its own, behind the name of its kind.
            Self::Other => {
                let mut fields = name.values();
                fields.next_of(der::OBJECT_ID)?;
                text(fields.next_of(der::context(0, true))?.values().next()?)
            }
        }
    }
}

/// A name as RFC 4514 writes it: the last part first.
fn distinguished_name(name: Value<'_>) -> Option<String> {
    let mut parts = Vec::new();
    for part in name.values() {
        let attributes = part.values().map(attribute).collect::<Option<Vec<_>>>()?;
        parts.push(attributes.iter().map(|(id, value)| shown(id, *value)).collect::<Vec<_>>().join("+"));
    }
    parts.reverse();
    Some(parts.join(","))
}

/// A moment as ISO 8601 writes it. Two digits of a year stand for 1950 to 2049.
fn moment(time: Value<'_>) -> Option<String> {
    const UTC_TIME: u8 = 0x17;
    const GENERALIZED_TIME: u8 = 0x18;
    let digits = std::str::from_utf8(time.contents).ok()?.strip_suffix('Z')?;
    if !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let century = match (time.tag, digits.len()) {
        (UTC_TIME, 12) if *digits < *"5" => "20",
        (UTC_TIME, 12) => "19",
        (GENERALIZED_TIME, 14) => "",
        _ => return None,
    };
    let whole = format!("{century}{digits}");
    let part = |range| whole.get(range).unwrap_or_default();
    Some(format!("{}-{}-{}T{}:{}:{}Z", part(0..4), part(4..6), part(6..8), part(8..10), part(10..12), part(12..14)))
}

/// The kind of an attribute, and its value.
fn attribute(attribute: Value<'_>) -> Option<(String, Value<'_>)> {
    let mut fields = attribute.values();
    Some((fields.next_of(der::OBJECT_ID)?.id()?, fields.next()?))
}

fn shown(id: &str, value: Value<'_>) -> String {
    let name = ATTRIBUTES.iter().find(|(known, _)| *known == id).map_or(id, |(_, name)| name);
    let value = text(value).unwrap_or_else(|| {
        // RabbitMQ shows the octets of what it can't read as Erlang does.
        let octets: Vec<String> = value.contents.iter().map(u8::to_string).collect();
        format!("<<{}>>", octets.join(","))
    });
    format!("{name}={}", escaped(&value))
}

/// A text of any of ASN.1's kinds.
fn text(value: Value<'_>) -> Option<String> {
    const UTF8: u8 = 0x0c;
    const PRINTABLE: u8 = 0x13;
    const TELETEX: u8 = 0x14;
    const IA5: u8 = 0x16;
    const UNIVERSAL: u8 = 0x1c;
    const BMP: u8 = 0x1e;
    let octets = value.contents;
    match value.tag {
        UTF8 | PRINTABLE | IA5 => String::from_utf8(octets.to_vec()).ok(),
        // Latin-1, as everybody takes it.
        TELETEX => Some(octets.iter().map(|octet| char::from(*octet)).collect()),
        BMP => octets.chunks(2).map(|unit| char::from_u32(number(unit))).collect(),
        UNIVERSAL => octets.chunks(4).map(|unit| char::from_u32(number(unit))).collect(),
        _ => None,
    }
}

fn number(octets: &[u8]) -> u32 {
    octets.iter().fold(0, |number, octet| number << 8 | u32::from(*octet))
}

/// As RabbitMQ does it: octets that are not printable ASCII as hexadecimal numbers.
fn escaped(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for (at, octet) in value.bytes().enumerate() {
        match octet {
            b' ' | b'#' if at == 0 => out.extend(['\\', char::from(octet)]),
            b' ' if at + 1 == value.len() => out.push_str("\\ "),
            b'"' | b'+' | b',' | b';' | b'<' | b'>' | b'\\' => out.extend(['\\', char::from(octet)]),
            32..126 => out.push(char::from(octet)),
            octet => write!(out, "\\{octet:02X}").expect("a text takes everything"),
        }
    }
    out
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    match octets.len() {
        4 => <[u8; 4]>::try_from(octets).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(octets).ok().map(IpAddr::from),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::string::{BmpString, Ia5String, PrintableString, TeletexString, UniversalString};
    use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyPair, OtherNameValue, SanType};

    fn user(certificate: &[u8], from: LoginFrom) -> Option<String> {
        Certificate::read(certificate)?.user(from)
    }

    fn certificate(subject: Vec<(DnType, DnValue)>, names: Vec<SanType>) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        subject.into_iter().for_each(|(kind, value)| params.distinguished_name.push(kind, value));
        params.subject_alt_names = names;
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    fn subject(subject: Vec<(DnType, DnValue)>) -> Option<String> {
        user(&certificate(subject, Vec::new()), LoginFrom::DistinguishedName)
    }

    #[test]
    fn people_are_shown_names_number_and_times() {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Häsen, Inc");
        params.distinguished_name.push(DnType::CommonName, "client");
        params.serial_number = Some(0x0A_BC_u64.into());
        params.not_before = rcgen::date_time_ymd(1999, 12, 31);
        params.not_after = rcgen::date_time_ymd(2050, 1, 2);
        let key = KeyPair::generate().unwrap();
        let der = params.self_signed(&key).unwrap();
        let shown = Certificate::read(der.der()).unwrap().shown();
        assert_eq!(shown.subject, "CN=client,O=H\\C3\\A4sen\\, Inc");
        assert_eq!(shown.issuer, shown.subject);
        assert_eq!(shown.serial_number, "ABC");
        assert_eq!(shown.validity, "1999-12-31T00:00:00Z - 2050-01-02T00:00:00Z");
    }

    #[test]
    fn a_subject_is_written_backwards_with_its_short_names() {
        let name = subject(vec![
            (DnType::CountryName, DnValue::PrintableString(PrintableString::try_from("DE").unwrap())),
            (DnType::OrganizationName, "Hasen".into()),
            (DnType::CustomDnType(vec![2, 5, 4, 5]), "1".into()),
            (DnType::CustomDnType(vec![0, 9, 2342, 19_200_300, 100, 1, 1]), "hare".into()),
            (DnType::CustomDnType(vec![1, 2, 840, 113_549, 1, 9, 1]), ia5("h@x")),
            (DnType::CustomDnType(vec![2, 5, 4, 9]), "Feld 1".into()),
            (DnType::CommonName, "client".into()),
        ]);
        let expected = "CN=client,2.5.4.9=Feld 1,EMAILADDRESS=h@x,UID=hare,SERIALNUMBER=1,O=Hasen,C=DE";
        assert_eq!(name.as_deref(), Some(expected));
    }

    #[test]
    fn what_would_read_as_something_else_is_escaped() {
        let cases = [
            ("a,b+c\"d\\e<f>g;h", "a\\,b\\+c\\\"d\\\\e\\<f\\>g\\;h"),
            (" a b ", "\\ a b\\ "),
            ("#a#", "\\#a#"),
            ("é~\n=", "\\C3\\A9\\7E\\0A="),
            (" ", "\\ "),
        ];
        for (value, shown) in cases {
            assert_eq!(subject(vec![(DnType::CommonName, value.into())]), Some(format!("CN={shown}")), "{value}");
        }
    }

    #[test]
    fn texts_of_every_kind_are_read() {
        let kinds = [
            DnValue::BmpString(BmpString::try_from("hé").unwrap()),
            DnValue::UniversalString(UniversalString::try_from("hé").unwrap()),
            DnValue::Utf8String("hé".to_owned()),
        ];
        for value in kinds {
            let certificate = certificate(vec![(DnType::CommonName, value)], Vec::new());
            assert_eq!(user(&certificate, LoginFrom::CommonName).as_deref(), Some("hé"));
        }
        let teletex = DnValue::TeletexString(TeletexString::try_from("plain").unwrap());
        assert_eq!(subject(vec![(DnType::CommonName, teletex)]).as_deref(), Some("CN=plain"));
    }

    #[test]
    fn alternative_names_are_counted_by_type() {
        let names = vec![
            SanType::DnsName("a.example".try_into().unwrap()),
            SanType::Rfc822Name("hare@example".try_into().unwrap()),
            SanType::DnsName("b.example".try_into().unwrap()),
            SanType::IpAddress("10.0.0.1".parse().unwrap()),
            SanType::IpAddress("2001:db8::1".parse().unwrap()),
            SanType::URI("spiffe://example/hare".try_into().unwrap()),
            SanType::OtherName((
                vec![1, 3, 6, 1, 4, 1, 311, 20, 2, 3],
                OtherNameValue::Utf8String("h@hase".to_owned()),
            )),
        ];
        let certificate = certificate(vec![(DnType::CommonName, "client".into())], names);
        let named = |kind, index| user(&certificate, LoginFrom::AlternativeName(kind, index));
        assert_eq!(named(NameType::Dns, 0).as_deref(), Some("a.example"));
        assert_eq!(named(NameType::Dns, 1).as_deref(), Some("b.example"));
        assert_eq!(named(NameType::Dns, 2), None);
        assert_eq!(named(NameType::Email, 0).as_deref(), Some("hare@example"));
        assert_eq!(named(NameType::Ip, 0).as_deref(), Some("10.0.0.1"));
        assert_eq!(named(NameType::Ip, 1).as_deref(), Some("2001:db8::1"));
        assert_eq!(named(NameType::Uri, 0).as_deref(), Some("spiffe://example/hare"));
        assert_eq!(named(NameType::Other, 0).as_deref(), Some("h@hase"));
        assert_eq!(user(&certificate, LoginFrom::CommonName).as_deref(), Some("client"));
    }

    #[test]
    fn what_is_not_there_is_no_user() {
        let plain = certificate(vec![(DnType::OrganizationName, "Hasen".into())], Vec::new());
        assert_eq!(user(&plain, LoginFrom::CommonName), None);
        assert_eq!(user(&plain, LoginFrom::AlternativeName(NameType::Dns, 0)), None);
        assert_eq!(subject(Vec::new()), None);
        assert_eq!(user(b"no certificate", LoginFrom::DistinguishedName), None);
        assert_eq!(user(&plain[..plain.len() / 2], LoginFrom::DistinguishedName), None);
    }

    fn ia5(text: &str) -> DnValue {
        DnValue::Ia5String(Ia5String::try_from(text).unwrap())
    }
}
