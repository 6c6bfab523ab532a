//! Frames of the ZooKeeper protocol: requests that are sent, answers and events that are read.
//!
//! A frame is its length and fields in big-endian order; texts and buffers have their lengths before them.
//!
//! Invariants:
//!   * no length of a frame is believed before it was compared with what is there

/// Size of a frame, in bytes. A server of default settings sends 1 MiB at most; a list of children may be larger.
pub const FRAME_BYTES_MAX: usize = 16 << 20;
/// Ids of events and of answers to pings.
const EVENT: i32 = -1;
const PING: i32 = -2;

const OP_GET_DATA: i32 = 4;
const OP_PING: i32 = 11;
const OP_GET_CHILDREN: i32 = 12;
/// The error for a node that does not exist.
const NO_NODE: i32 = -101;

/// What is asked of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    Data,
    Children,
}

/// An answer to a request for a node; `None`: the node does not exist.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    Data(Option<Vec<u8>>),
    Children(Option<Vec<String>>),
}

/// A frame of the server.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming<'a> {
    Pong,
    /// A node has changed: its type (1 created, 2 deleted, 3 data, 4 children) and path.
    Event(i32, &'a str),
    /// The answer to the request with this id; its error, and the bytes behind it.
    Answer(i32, i32, &'a [u8]),
}

/// Returns a frame with its length.
fn frame(body: &[u8]) -> Vec<u8> {
    let mut frame = (body.len() as u32).to_be_bytes().to_vec();
    frame.extend_from_slice(body);
    frame
}

/// The first frame: a new session with this timeout.
pub fn connect(timeout_ms: i32) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend_from_slice(&0i32.to_be_bytes());
    body.extend_from_slice(&0i64.to_be_bytes());
    body.extend_from_slice(&timeout_ms.to_be_bytes());
    body.extend_from_slice(&0i64.to_be_bytes());
    body.extend_from_slice(&16u32.to_be_bytes());
    body.extend_from_slice(&[0; 16]);
    frame(&body)
}

/// Reads the answer to the first frame. Returns the timeout of the session in milliseconds.
pub fn connected(body: &[u8]) -> Result<i32, String> {
    let mut fields = Fields(body);
    let _version = fields.int()?;
    match fields.int()? {
        timeout if timeout > 0 => Ok(timeout),
        _ => Err("the server refuses the session".to_owned()),
    }
}

/// A request for a node, with a watch on it.
pub fn read(id: i32, what: Read, path: &str) -> Vec<u8> {
    let op = match what {
        Read::Data => OP_GET_DATA,
        Read::Children => OP_GET_CHILDREN,
    };
    let mut body = Vec::with_capacity(path.len() + 13);
    body.extend_from_slice(&id.to_be_bytes());
    body.extend_from_slice(&op.to_be_bytes());
    body.extend_from_slice(&(path.len() as u32).to_be_bytes());
    body.extend_from_slice(path.as_bytes());
    body.push(1);
    frame(&body)
}

pub fn ping() -> Vec<u8> {
    frame(&[PING.to_be_bytes(), OP_PING.to_be_bytes()].concat())
}

/// Reads a frame of the server.
pub fn incoming(body: &[u8]) -> Result<Incoming<'_>, String> {
    let mut fields = Fields(body);
    let id = fields.int()?;
    let _transaction = fields.long()?;
    let error = fields.int()?;
    match id {
        PING => Ok(Incoming::Pong),
        EVENT => {
            let (kind, state) = (fields.int()?, fields.int()?);
            let path = fields.text()?;
            // 3 is a session that is in order.
            if state != 3 { Err(format!("the session is in state {state}")) } else { Ok(Incoming::Event(kind, path)) }
        }
        id => Ok(Incoming::Answer(id, error, fields.0)),
    }
}

/// Reads what follows the head of an answer.
pub fn answer(what: Read, error: i32, body: &[u8]) -> Result<Answer, String> {
    match (what, error) {
        (Read::Data, NO_NODE) => return Ok(Answer::Data(None)),
        (Read::Children, NO_NODE) => return Ok(Answer::Children(None)),
        (_, 0) => {}
        (_, -102 | -115) => return Err(format!("error {error}: not authenticated for this node")),
        (_, error) => return Err(format!("error {error}")),
    }
    let mut fields = Fields(body);
    match what {
        Read::Data => fields.buffer().map(|data| Answer::Data(Some(data.to_vec()))),
        Read::Children => {
            let count = fields.int()?;
            // Each name has a length of its own, so there are no more names than words of four bytes.
            if count < 0 || count as usize > fields.0.len() / 4 {
                return Err("a frame is cut short".to_owned());
            }
            let names = (0..count).map(|_| fields.text().map(str::to_owned));
            names.collect::<Result<Vec<String>, String>>().map(|names| Answer::Children(Some(names)))
        }
    }
}

/// The fields of a frame that are left.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or("a frame is cut short")?;
        self.0 = rest;
        Ok(taken)
    }

    fn int(&mut self) -> Result<i32, String> {
        let bytes = self.take(4)?;
        Ok(i32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn long(&mut self) -> Result<i64, String> {
        Ok((i64::from(self.int()?) << 32) | i64::from(self.int()? as u32))
    }

    /// A buffer; a length of -1 stands for none.
    fn buffer(&mut self) -> Result<&'a [u8], String> {
        let length = self.int()?;
        self.take(usize::try_from(length.max(0)).unwrap_or(0))
    }

    fn text(&mut self) -> Result<&'a str, String> {
        std::str::from_utf8(self.buffer()?).map_err(|_| "a name is no UTF-8".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_those_of_the_protocol() {
        // As a server recorded it.
        let first = "0000002c0000000000000000000000000000271000000000000000000000001000000000000000000000000000000000";
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(hex(&connect(10_000)), first);
        assert_eq!(hex(&read(7, Read::Children, "/a")), "0000000f000000070000000c000000022f6101");
        assert_eq!(hex(&ping()), "00000008fffffffe0000000b");
    }

    #[test]
    fn answers_are_read() {
        let head = |id: i32, error: i32| [&id.to_be_bytes()[..], &[0; 8], &error.to_be_bytes()].concat();
        let text = |text: &str| [&(text.len() as u32).to_be_bytes()[..], text.as_bytes()].concat();
        let event = [head(-1, 0), 3i32.to_be_bytes().to_vec(), 3i32.to_be_bytes().to_vec(), text("/a")].concat();
        assert_eq!(incoming(&event), Ok(Incoming::Event(3, "/a")));
        let expired = [head(-1, 0), 0i32.to_be_bytes().to_vec(), (-112i32).to_be_bytes().to_vec(), text("")].concat();
        assert!(incoming(&expired).is_err());
        assert_eq!(incoming(&head(-2, 0)), Ok(Incoming::Pong));
        assert_eq!(incoming(&head(5, -101)), Ok(Incoming::Answer(5, -101, &[])));
        assert_eq!(answer(Read::Data, -101, &[]), Ok(Answer::Data(None)));
        assert_eq!(answer(Read::Data, 0, &text("x")), Ok(Answer::Data(Some(b"x".to_vec()))));
        assert_eq!(answer(Read::Data, 0, &(-1i32).to_be_bytes()), Ok(Answer::Data(Some(Vec::new()))));
        let names = [2u32.to_be_bytes().to_vec(), text("a"), text("b")].concat();
        assert_eq!(answer(Read::Children, 0, &names), Ok(Answer::Children(Some(vec!["a".into(), "b".into()]))));
        assert!(answer(Read::Children, 0, &i32::MAX.to_be_bytes()).is_err());
        assert!(answer(Read::Children, 0, &(-1i32).to_be_bytes()).is_err());
        assert!(answer(Read::Data, 0, &i32::MAX.to_be_bytes()).is_err());
        for length in 0..event.len() {
            assert!(incoming(&event[..length]).is_err(), "cut at {length}");
        }
        assert!(connected(&[0; 8]).is_err());
        assert_eq!(connected(&[0, 0, 0, 0, 0, 0, 0x10, 0]), Ok(4096));
    }
}
