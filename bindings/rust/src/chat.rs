//! Conversations: messages as values, and the JSON request that the library takes, made here.
//!
//! The request is what nbl_chat_render documents: "messages", and beside it whatever the checkpoint's template reads.
use std::fmt::{self, Write};

/// A JSON value, for what a message or a conversation carries beside its texts: tools, tool calls, a template's variables.
///
/// ```
/// use nibble::Value;
/// let tool = Value::object([("name", Value::from("add")), ("strict", true.into()), ("limits", Value::from([1, 2]))]);
/// assert_eq!(tool.to_string(), r#"{"name":"add","strict":true,"limits":[1,2]}"#);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Another number; one that is not finite is written as `null`, for JSON has no word for it.
    Float(f64),
    /// A text.
    Text(String),
    /// `[...]`
    List(Vec<Value>),
    /// `{...}`, in this order.
    Object(Vec<(String, Value)>),
}

impl Value {
    /// An object of these entries.
    pub fn object<K: Into<String>>(entries: impl IntoIterator<Item = (K, Value)>) -> Value {
        Value::Object(entries.into_iter().map(|(key, value)| (key.into(), value)).collect())
    }
}

macro_rules! value_from {
    ($($from:ty => $variant:ident),*) => {
        $(impl From<$from> for Value {
            fn from(value: $from) -> Value {
                Value::$variant(value.into())
            }
        })*
    };
}
value_from!(bool => Bool, i32 => Int, i64 => Int, u32 => Int, f64 => Float, &str => Text, String => Text);

impl<T: Into<Value>> From<Vec<T>> for Value {
    fn from(values: Vec<T>) -> Value {
        Value::List(values.into_iter().map(Into::into).collect())
    }
}

impl<T: Into<Value>, const N: usize> From<[T; N]> for Value {
    fn from(values: [T; N]) -> Value {
        Value::List(values.into_iter().map(Into::into).collect())
    }
}

/// The value as JSON, on one line.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Null => f.write_str("null"),
            Value::Bool(value) => write!(f, "{value}"),
            Value::Int(value) => write!(f, "{value}"),
            // {:?} writes the shortest digits that read back as the same number, in a form that JSON has too.
            Value::Float(value) if value.is_finite() => write!(f, "{value:?}"),
            Value::Float(_) => f.write_str("null"),
            Value::Text(text) => write_text(f, text),
            Value::List(values) => {
                f.write_char('[')?;
                for (index, value) in values.iter().enumerate() {
                    write!(f, "{}{value}", if index > 0 { "," } else { "" })?;
                }
                f.write_char(']')
            }
            Value::Object(entries) => {
                f.write_char('{')?;
                for (index, (key, value)) in entries.iter().enumerate() {
                    f.write_str(if index > 0 { "," } else { "" })?;
                    write_text(f, key)?;
                    write!(f, ":{value}")?;
                }
                f.write_char('}')
            }
        }
    }
}

/// A JSON string: only what must be escaped is.
fn write_text(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_char('"')?;
    let mut plain = 0; // text[plain..] is not written yet
    for (at, byte) in text.bytes().enumerate() {
        let short = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            0..=0x1f => "",
            _ => continue,
        };
        f.write_str(&text[plain..at])?;
        plain = at + 1;
        if short.is_empty() {
            write!(f, "\\u{byte:04x}")?;
        } else {
            f.write_str(short)?;
        }
    }
    f.write_str(&text[plain..])?;
    f.write_char('"')
}

/// One message of a conversation: who says what, and what else its template reads (`tool_calls`, `name`, ...).
#[derive(Clone, Debug, PartialEq)]
pub struct Message(Vec<(String, Value)>);

impl Message {
    /// A message of any role. The content is a text, or a list of parts where the template takes them.
    pub fn new(role: impl Into<String>, content: impl Into<Value>) -> Message {
        Message(vec![("role".to_owned(), Value::Text(role.into())), ("content".to_owned(), content.into())])
    }

    /// What the person says.
    pub fn user(content: impl Into<Value>) -> Message {
        Message::new("user", content)
    }

    /// What the model has answered.
    pub fn assistant(content: impl Into<Value>) -> Message {
        Message::new("assistant", content)
    }

    /// How the model shall behave; first in a conversation.
    pub fn system(content: impl Into<Value>) -> Message {
        Message::new("system", content)
    }

    /// What a tool has answered.
    pub fn tool(content: impl Into<Value>) -> Message {
        Message::new("tool", content)
    }

    /// A further key of the message, or another value for one that is there.
    ///
    /// ```
    /// use nibble::{Message, Value};
    /// let call = Value::object([("name", Value::from("add")), ("arguments", Value::object([("a", Value::from(1))]))]);
    /// let message = Message::assistant("").with("tool_calls", [call]);
    /// ```
    pub fn with(mut self, key: impl Into<String>, value: impl Into<Value>) -> Message {
        set(&mut self.0, key.into(), value.into());
        self
    }
}

fn set(entries: &mut Vec<(String, Value)>, key: String, value: Value) {
    match entries.iter_mut().find(|(name, _)| *name == key) {
        Some(entry) => entry.1 = value,
        None => entries.push((key, value)),
    }
}

/// A conversation, for [`Session::append_chat`](crate::Session::append_chat) and [`Model::chat_render`](crate::Model::chat_render).
///
/// ```
/// # fn main() -> nibble::Result<()> {
/// # let dir = "../../samples/models/story-6m-awq";
/// use nibble::{Chat, Config, Message, Model, Session};
/// let model = Model::load(dir, &Config::new())?;
/// let mut session = Session::new(&model, &Config::new())?;
/// let mut chat = Chat::new([Message::user("Tell me a story about a \"cat\".")]);
/// session.append_chat(&chat)?;
/// let answer: String = session.begin(50)?.map(|token| token.map(|t| t.text)).collect::<nibble::Result<_>>()?;
/// chat.push(Message::assistant(answer));
/// chat.push(Message::user("And a dog?"));
/// session.append_chat(&chat)?; // runs only what is new
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chat {
    messages: Vec<Message>,
    variables: Vec<(String, Value)>,
}

impl Chat {
    /// A conversation of these messages, to be answered.
    pub fn new(messages: impl IntoIterator<Item = Message>) -> Chat {
        Chat { messages: messages.into_iter().collect(), variables: Vec::new() }
    }

    /// Adds a message at the end.
    pub fn push(&mut self, message: Message) {
        self.messages.push(message);
    }

    /// Takes the last message away: a turn that failed can be asked again.
    pub fn pop(&mut self) -> Option<Message> {
        self.messages.pop()
    }

    /// A further key of the request: `tools`, `documents`, `add_generation_prompt`, `continue_final_message`, `spell_special`
    /// (control tokens that users wrote are ordinary text), or a variable of the template, such as `enable_thinking`.
    pub fn with(mut self, key: impl Into<String>, value: impl Into<Value>) -> Chat {
        set(&mut self.variables, key.into(), value.into());
        self
    }

    /// The request that the library takes.
    pub fn to_json(&self) -> String {
        let messages = self.messages.iter().map(|message| Value::Object(message.0.clone())).collect();
        let mut request = vec![("messages".to_owned(), Value::List(messages))];
        request.extend(self.variables.iter().cloned());
        Value::Object(request).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_what_json_must_and_nothing_else() {
        let text = "a\"b\\c\n\r\t\u{0}\u{1f}\u{7f}é\u{2028}🦙/";
        assert_eq!(Value::from(text).to_string(), "\"a\\\"b\\\\c\\n\\r\\t\\u0000\\u001f\u{7f}é\u{2028}🦙/\"");
        assert_eq!(Value::from("").to_string(), "\"\"");
    }

    #[test]
    fn numbers_read_back_as_they_are() {
        assert_eq!(Value::from(i64::MIN).to_string(), "-9223372036854775808");
        assert_eq!(Value::from(0.1).to_string(), "0.1");
        assert_eq!(Value::from(1e300).to_string(), "1e300");
        assert_eq!(Value::from(2.0).to_string(), "2.0");
        assert_eq!(Value::from(f64::NAN).to_string(), "null");
        assert_eq!(Value::from(f64::NEG_INFINITY).to_string(), "null");
    }

    #[test]
    fn a_request_is_an_object_with_messages_first() {
        let chat = Chat::new([Message::system("s"), Message::user("u").with("name", "n")])
            .with("tools", Value::List(vec![]))
            .with("add_generation_prompt", true)
            .with("add_generation_prompt", false);
        assert_eq!(
            chat.to_json(),
            r#"{"messages":[{"role":"system","content":"s"},{"role":"user","content":"u","name":"n"}],"tools":[],"add_generation_prompt":false}"#
        );
    }
}
