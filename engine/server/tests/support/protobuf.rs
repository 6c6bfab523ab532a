//! Protobuf by hand: what a client of the test's own sends.

pub fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub fn bytes(field: u64, bytes: &[u8], out: &mut Vec<u8>) {
    varint(field << 3 | 2, out);
    varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

pub fn number(field: u64, value: u64, out: &mut Vec<u8>) {
    varint(field << 3, out);
    varint(value, out);
}

pub fn double(field: u64, value: f64, out: &mut Vec<u8>) {
    varint(field << 3 | 1, out);
    out.extend_from_slice(&value.to_le_bytes());
}

/// Header of a payload of a target.
pub const PAYLOAD_TYPE: &str =
    "Content-Type: application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily\r\n";

/// A payload of a target: a gauge `g`, and a native histogram `h` of so many observations in one bucket, if there are any.
pub fn payload(gauge: f64, observations: u64, claimed: u64) -> Vec<u8> {
    let message = |write: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        write(&mut out);
        out
    };
    let family = |name: &str, kind: u64, metric: &[u8], body: &mut Vec<u8>| {
        let family = message(&|out| {
            bytes(1, name.as_bytes(), out);
            bytes(2, b"Help.", out);
            number(3, kind, out);
            bytes(4, metric, out);
        });
        varint(family.len() as u64, body);
        body.extend(family);
    };
    let mut body = Vec::new();
    let value = message(&|out| double(1, gauge, out));
    family("g", 1, &message(&|out| bytes(2, &value, out)), &mut body);
    if observations > 0 {
        let span = message(&|out| number(2, 1, out));
        let label = message(&|out| {
            bytes(1, b"path", out);
            bytes(2, b"/", out);
        });
        let histogram = message(&|out| {
            number(1, claimed, out);
            double(2, 1.5 * observations as f64, out);
            number(5, 6, out);
            double(6, 0.001, out);
            bytes(12, &span, out);
            number(13, observations * 2, out);
        });
        let metric = message(&|out| {
            bytes(1, &label, out);
            bytes(7, &histogram, out);
        });
        family("h", 4, &metric, &mut body);
    }
    body
}
