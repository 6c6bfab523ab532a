//! A body in any format: lines for `ingest`, native histograms for `natives`.

use crate::ingest::{Ingested, Reader, Refusal};
use crate::native_state::NativeCounts;
use crate::natives::NativeRows;
use exposition::{ClassicConverter, Format, HistogramOptions, Readings, Transcoded, Transcoder};
use fetch::Fetched;
use fetch::Reason;
use fetch::content_type::PayloadFormat;
use targets::Target;

/// What a scrape has brought.
pub struct Scraped {
    pub fetched: Fetched,
    pub ingested: Ingested,
    pub natives: NativeRows,
    /// The lines that readings lie in, where they are not those of the body.
    lines: Option<Vec<u8>>,
}

impl Scraped {
    /// The lines that readings lie in.
    pub fn lines(&self) -> &[u8] {
        self.lines.as_deref().unwrap_or(self.fetched.body())
    }
}

/// What a target wants of histograms.
pub fn histogram_options(target: &Target, start_times: bool) -> HistogramOptions {
    HistogramOptions {
        start_times,
        native: target.scrape_native_histograms,
        always_classic: target.always_scrape_classic_histograms,
        convert_classic: target.convert_classic_histograms_to_nhcb,
    }
}

/// Reads a body. `pause` lets others run now and then. A body of more than `samples_max` is refused.
pub async fn read_payload(
    reader: &mut Reader,
    target: &Target,
    (format, fetched): (PayloadFormat, Fetched),
    samples_max: u64,
    readings: &mut Readings,
    pause: impl AsyncFn(),
) -> Scraped {
    match format {
        PayloadFormat::Lines(format) if !target.convert_classic_histograms_to_nhcb || fetched.body().is_empty() => {
            reader.set_natives(NativeCounts::default());
            let ingested = reader.read(format, fetched.body(), samples_max, readings, pause).await;
            Scraped { fetched, ingested, lines: None, natives: NativeRows::default() }
        }
        // Boxed, so that idle targets do not each hold the room of what few of them need.
        format => Box::pin(read_transcoded(reader, target, (format, fetched), samples_max, readings, pause)).await,
    }
}

/// The same for a body that native histograms are taken out of first.
async fn read_transcoded(
    reader: &mut Reader,
    target: &Target,
    (format, fetched): (PayloadFormat, Fetched),
    samples_max: u64,
    readings: &mut Readings,
    pause: impl AsyncFn(),
) -> Scraped {
    let (format, transcoded, error) =
        transcode(format, fetched.body(), histogram_options(target, reader.reads_start_times()), &pause).await;
    if let Some(text) = error.as_ref().filter(|_| transcoded.text.is_empty()) {
        // Without lines it would pass for an empty body, which is a good one.
        let refusal = Some(Refusal { reason: Reason::Parse, text: text.clone() });
        let ingested = Ingested { refusal, ..Ingested::default() };
        return Scraped { fetched, ingested, lines: None, natives: NativeRows::default() };
    }
    let Transcoded { text, natives } = transcoded;
    let mut natives = match reader.read_natives(natives, &pause).await {
        Ok(natives) => natives,
        Err((counts, refusal)) => {
            let ingested = Ingested {
                samples_scraped: counts.scraped,
                samples_post_relabel: counts.kept.saturating_sub(1),
                refusal: Some(refusal),
                ..Ingested::default()
            };
            return Scraped { fetched, ingested, lines: None, natives: NativeRows::default() };
        }
    };
    reader.set_natives(natives.counts);
    let mut ingested = reader.read(format, &text, samples_max, readings, pause).await;
    if let (Some(text), Some(Refusal { reason: Reason::Parse, text: refused })) = (error, &mut ingested.refusal) {
        *refused = text;
    }
    if ingested.refusal.is_some() {
        (natives.rows, natives.exemplars) = (Vec::new(), Vec::new());
    }
    Scraped { fetched, ingested, lines: Some(text), natives }
}

/// Takes native histograms out of a body. Lines are left, in the format that is returned; and the error that ended
/// protobuf, if one did.
pub async fn transcode(
    format: PayloadFormat,
    body: &[u8],
    options: HistogramOptions,
    pause: &impl AsyncFn(),
) -> (Format, Transcoded, Option<String>) {
    match format {
        PayloadFormat::Lines(format) => {
            let mut converter = ClassicConverter::new(format, body, options);
            while converter.step() {
                pause().await;
            }
            (format, converter.finish(), None)
        }
        PayloadFormat::Protobuf => {
            let mut transcoder = Transcoder::new(body, options);
            let error = loop {
                match transcoder.step() {
                    Ok(true) => pause().await,
                    Ok(false) => break None,
                    Err(error) => break Some(error.text),
                }
            };
            (Format::OpenMetrics, transcoder.finish(), error)
        }
    }
}
