//! The JSON of one line, without a copy of its texts. `show` looks at every record, and prints few.

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, MapAccess, SeqAccess, Visitor},
};
use serde_json::Number;
use std::{
    borrow::Cow,
    fmt::{self, Display, Formatter},
    ops::Index,
};

/// A value. Its texts stand in the line, but for those that have escapes.
#[derive(Debug, PartialEq)]
pub(super) enum LineValue<'a> {
    Null,
    Bool(bool),
    Number(Number),
    Text(Cow<'a, str>),
    List(Vec<LineValue<'a>>),
    /// In the order of the line.
    Object(Vec<(Cow<'a, str>, LineValue<'a>)>),
}

use LineValue::{Bool, List, Null, Object, Text};

impl<'a> LineValue<'a> {
    /// Reads a line; `None` if it is no JSON.
    pub(super) fn read(line: &'a [u8]) -> Option<Self> {
        // Checked to be text once, and not string by string.
        serde_json::from_str(str::from_utf8(line).ok()?).ok()
    }

    pub(super) fn as_str(&self) -> Option<&str> {
        match self {
            Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn as_u64(&self) -> Option<u64> {
        match self {
            Self::Number(number) => number.as_u64(),
            _ => None,
        }
    }

    /// The values of a list; of anything else, none.
    pub(super) fn values(&self) -> &[Self] {
        match self {
            List(values) => values,
            _ => &[],
        }
    }

    /// The names and values of an object, sorted by name; of anything else, none.
    pub(super) fn fields(&self) -> Vec<(&str, &Self)> {
        let Object(fields) = self else {
            return Vec::new();
        };
        let mut fields: Vec<_> = fields
            .iter()
            .map(|(name, value)| (&**name, value))
            .collect();
        fields.sort_by_key(|(name, _)| *name);
        fields
    }

    pub(super) fn is_null(&self) -> bool {
        *self == Null
    }

    pub(super) fn is_object(&self) -> bool {
        matches!(self, Object(_))
    }
}

/// The field of that name; of what has none, null.
impl<'a> Index<&str> for LineValue<'a> {
    type Output = LineValue<'a>;

    fn index(&self, name: &str) -> &Self {
        let Object(fields) = self else {
            return &Null;
        };
        let mut fields = fields.iter().rev();
        fields
            .find(|(one, _)| one == name)
            .map_or(&Null, |(_, value)| value)
    }
}

impl PartialEq<str> for LineValue<'_> {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == Some(other)
    }
}

impl PartialEq<&str> for LineValue<'_> {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == Some(*other)
    }
}

impl PartialEq<bool> for LineValue<'_> {
    fn eq(&self, other: &bool) -> bool {
        *self == Bool(*other)
    }
}

impl PartialEq<u64> for LineValue<'_> {
    fn eq(&self, other: &u64) -> bool {
        self.as_u64() == Some(*other)
    }
}

impl Serialize for LineValue<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Null => serializer.serialize_unit(),
            Bool(value) => serializer.serialize_bool(*value),
            Self::Number(value) => value.serialize(serializer),
            Text(text) => serializer.serialize_str(text),
            List(values) => serializer.collect_seq(values),
            Object(_) => serializer.collect_map(self.fields()),
        }
    }
}

impl Display for LineValue<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

/// A name or a text.
struct LineText<'a>(Cow<'a, str>);

struct TextVisitor;

impl<'a> Visitor<'a> for TextVisitor {
    type Value = LineText<'a>;

    fn expecting(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_borrowed_str<E>(self, text: &'a str) -> Result<LineText<'a>, E> {
        Ok(LineText(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<LineText<'a>, E> {
        Ok(LineText(Cow::Owned(text.to_owned())))
    }
}

impl<'a> Deserialize<'a> for LineText<'a> {
    fn deserialize<D: Deserializer<'a>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(TextVisitor)
    }
}

struct ValueVisitor;

impl<'a> Visitor<'a> for ValueVisitor {
    type Value = LineValue<'a>;

    fn expecting(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<LineValue<'a>, E> {
        Ok(Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<LineValue<'a>, E> {
        Ok(Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<LineValue<'a>, E> {
        Ok(LineValue::Number(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<LineValue<'a>, E> {
        Ok(LineValue::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<LineValue<'a>, E> {
        let number = Number::from_f64(value).ok_or_else(|| E::custom("no number"))?;
        Ok(LineValue::Number(number))
    }

    fn visit_borrowed_str<E>(self, text: &'a str) -> Result<LineValue<'a>, E> {
        Ok(Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<LineValue<'a>, E> {
        Ok(Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut list: A) -> Result<LineValue<'a>, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element()? {
            values.push(value);
        }
        Ok(List(values))
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<LineValue<'a>, A::Error> {
        // Room for the fields of a record comes with the first one: a line of empty objects takes none.
        let mut fields = Vec::new();
        while let Some((LineText(name), value)) = map.next_entry()? {
            if fields.is_empty() {
                fields.reserve(8);
            }
            fields.push((name, value));
        }
        Ok(Object(fields))
    }
}

impl<'a> Deserialize<'a> for LineValue<'a> {
    fn deserialize<D: Deserializer<'a>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            (-1e9..1e9_f64).prop_map(Value::from),
            ".{0,9}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 30, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::vec((".{0,4}", inner), 0..5)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    #[test]
    fn objects_without_fields_take_no_room() {
        let read = LineValue::read(b"{\"x\":[{},{}]}").unwrap();
        let Object(fields) = &read else {
            panic!("{read:?}")
        };
        let List(values) = &fields[0].1 else {
            panic!("{read:?}")
        };
        for value in values {
            assert!(matches!(value, Object(fields) if fields.capacity() == 0));
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_serde_json_reads(value in value()) {
            let line = value.to_string();
            let value: Value = serde_json::from_str(&line).unwrap();
            let read = LineValue::read(line.as_bytes()).unwrap();
            prop_assert_eq!(read.to_string(), value.to_string());
            for (name, value) in value.as_object().into_iter().flatten() {
                prop_assert_eq!(read[name.as_str()].to_string(), value.to_string());
            }
        }
    }

    #[test]
    fn only_texts_with_escapes_are_copied_and_what_is_no_text_is_no_json() {
        let read = LineValue::read(br#"{"a":"plain","b":"q\"","a":"last"}"#).unwrap();
        assert_eq!(&read["a"], "last");
        assert_eq!(&read["b"], "q\"");
        assert!(read["none"]["deeper"].is_null());
        assert!(matches!(read["a"], Text(Cow::Borrowed(_))));
        assert_eq!(LineValue::read(b"{\"a\":\"\xff\"}"), None);
        assert_eq!(LineValue::read(b"{\"a\":1} x"), None);
    }
}
