//! Symbols of 2.0: a text is hashed once, when it is interned; a request then numbers symbols by an array.
//!
//! Invariants:
//!   * a request has the empty text as number 0, and every other text at most once, in the order of first use
//!   * a symbol stays valid over requests

use crate::wire::put_bytes;
use ahash::AHashMap;

/// An interned text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Symbol(u32);

impl Symbol {
    /// The empty text.
    pub const EMPTY: Symbol = Symbol(0);
}

/// Interned texts, and the table of the request that is being made.
#[derive(Debug)]
pub(crate) struct SymbolTable {
    symbols: AHashMap<Box<str>, Symbol>,
    /// Bytes of the texts as keys of the map.
    text_bytes: usize,
    /// The texts as fields of a request, one after the other, and the end of each.
    fields: Vec<u8>,
    ends: Vec<u32>,
    /// For each symbol the request that used it last, and its number there.
    numbers: Vec<(u32, u32)>,
    request: u32,
    /// How many numbers the request has given.
    used: u32,
    /// The table of the request but for the empty text.
    encoded: Vec<u8>,
}

impl Default for SymbolTable {
    fn default() -> SymbolTable {
        SymbolTable {
            symbols: AHashMap::new(),
            text_bytes: 0,
            fields: Vec::new(),
            // The empty text has number 0 in every request and is written apart.
            ends: vec![0],
            numbers: vec![(0, 0)],
            request: 1,
            used: 0,
            encoded: Vec::new(),
        }
    }
}

impl SymbolTable {
    pub fn intern(&mut self, text: &str) -> Symbol {
        if text.is_empty() {
            return Symbol::EMPTY;
        }
        if let Some(symbol) = self.symbols.get(text) {
            return *symbol;
        }
        let symbol = Symbol(self.ends.len() as u32);
        self.symbols.insert(text.into(), symbol);
        self.text_bytes += text.len();
        put_bytes(4, text.as_bytes(), &mut self.fields);
        self.ends.push(u32::try_from(self.fields.len()).expect("whoever interns forgets all long before 4 GiB"));
        self.numbers.push((0, 0));
        symbol
    }

    /// The number of a symbol in the request.
    #[inline]
    pub fn reference(&mut self, symbol: Symbol) -> u32 {
        let place = symbol.0 as usize;
        let (request, number) = self.numbers[place];
        if request == self.request || place == 0 {
            return number;
        }
        self.used += 1;
        self.numbers[place] = (self.request, self.used);
        let field = self.ends[place - 1] as usize..self.ends[place] as usize;
        self.encoded.extend_from_slice(&self.fields[field]);
        self.used
    }

    /// The symbols of the request as fields, but for the empty text.
    pub fn encoded(&self) -> &[u8] {
        &self.encoded
    }

    pub fn begin_request(&mut self) {
        self.encoded.clear();
        self.used = 0;
        self.request = self.request.wrapping_add(1);
        if self.request == 0 {
            // Once in four billion requests: no number of an old request may look like one of this.
            self.numbers.fill((0, 0));
            self.request = 1;
        }
    }

    pub fn heap_bytes(&self) -> usize {
        self.text_bytes
            + self.symbols.capacity() * size_of::<(Box<str>, Symbol)>()
            + self.fields.capacity()
            + self.ends.capacity() * size_of::<u32>()
            + self.numbers.capacity() * size_of::<(u32, u32)>()
    }
}
