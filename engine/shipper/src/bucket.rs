//! A bucket: the settings of `object_storage` as a store of `object_store`, and the few things that the shipper does there.

use crate::connector::Connector;
use base64::Engine;
use bytes::Bytes;
use config::{
    AzureStorage, BucketLookup, FilesystemStorage, GcsStorage, ObjectStorage, ObjectStorageProvider, S3Storage, SseType,
};
use object_store::aws::AmazonS3Builder;
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder, split_sas};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutPayload, RetryConfig};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Bytes of a part of a file where the settings do not say.
const PART_BYTES: u64 = 16 << 20;
/// Parts of one file at most, by S3.
const PARTS_MAX: u64 = 10_000;
/// Retries of a request within one attempt; the next round tries again anyway.
const RETRIES: usize = 3;
/// Credentials of a request must last as long.
const RETRY_WITHIN: Duration = Duration::from_secs(120);
/// Characters of an error that are shown.
const ERROR_CHARS_MAX: usize = 400;

/// Where blocks go.
pub struct Bucket {
    store: Arc<dyn ObjectStore>,
    prefix: String,
    /// 0: a file goes in one request, whatever its size.
    part_bytes: u64,
}

/// Kind and name of a bucket, for people. It has no secret.
pub fn shown(storage: &ObjectStorage) -> String {
    let kind = storage.provider.kind();
    let name = match &storage.provider {
        ObjectStorageProvider::S3(config) => format!("{}/{}", config.endpoint, config.bucket),
        ObjectStorageProvider::Gcs(config) => config.bucket.clone(),
        ObjectStorageProvider::Azure(config) => format!("{}/{}", config.storage_account, config.container),
        ObjectStorageProvider::Filesystem(config) => {
            config.directory.as_ref().map(|directory| directory.display().to_string()).unwrap_or_default()
        }
    };
    let prefix = if storage.prefix.is_empty() { String::new() } else { format!("/{}", storage.prefix) };
    format!("{kind} {name}{prefix}")
}

/// An error without what may be secret or endless in it: queries of URLs may have tokens, bodies of responses are XML.
pub fn shown_error(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let element = |text: &str, name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        rest.split_once("</").map(|(value, _)| value.to_owned())
    };
    if let Some(start) = text.find("<?xml").or_else(|| text.find("<Error>")) {
        let body = text.split_off(start);
        let (code, message) = (element(&body, "Code"), element(&body, "Message"));
        text.push_str(&[code, message].into_iter().flatten().collect::<Vec<_>>().join(": "));
    }
    let words = text.split_whitespace().map(|word| match word.split_once('?') {
        Some((place, _)) if place.contains("://") => format!("{place}?…"),
        _ => word.to_owned(),
    });
    let text = words.collect::<Vec<_>>().join(" ");
    text.chars().take(ERROR_CHARS_MAX).collect()
}

fn retry(max_retries: u64) -> RetryConfig {
    let max_retries = if max_retries == 0 { RETRIES } else { usize::try_from(max_retries).unwrap_or(RETRIES) };
    RetryConfig { max_retries, retry_timeout: RETRY_WITHIN, ..RetryConfig::default() }
}

impl Bucket {
    /// # Errors
    /// If the settings cannot be used.
    pub fn new(storage: &ObjectStorage) -> Result<Bucket, String> {
        let store = match &storage.provider {
            ObjectStorageProvider::S3(config) => s3(config),
            ObjectStorageProvider::Gcs(config) => gcs(config),
            ObjectStorageProvider::Azure(config) => azure(config),
            ObjectStorageProvider::Filesystem(config) => filesystem(config),
        };
        let part_bytes = match &storage.provider {
            ObjectStorageProvider::S3(config) if config.disable_multipart => 0,
            ObjectStorageProvider::S3(config) => config.part_size,
            _ => PART_BYTES,
        };
        let store = store.map_err(|error| format!("object_storage: {}", error))?;
        Ok(Bucket { store, prefix: storage.prefix.clone(), part_bytes })
    }

    fn path(&self, name: &str) -> ObjectPath {
        if self.prefix.is_empty() {
            ObjectPath::from(name)
        } else {
            ObjectPath::from(format!("{}/{name}", self.prefix))
        }
    }

    /// Size of an object, if it is there.
    pub async fn size(&self, name: &str) -> Result<Option<u64>, String> {
        match self.store.head(&self.path(name)).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(format!("{name}: {}", shown_error(&error))),
        }
    }

    /// Uploads a file, a part at a time.
    pub async fn put_file(&self, name: &str, from: &Path, bytes: u64) -> Result<(), FileError> {
        let failed = |error: object_store::Error| FileError::Bucket(format!("{name}: {}", shown_error(&error)));
        let local = |error: std::io::Error| FileError::Local(format!("{}: {error}", from.display()));
        let mut file = File::open(from).map_err(local)?;
        let part_bytes = self.part_bytes.max(bytes.div_ceil(PARTS_MAX));
        if self.part_bytes == 0 || bytes <= part_bytes {
            let whole = read_part(&mut file, bytes).map_err(local)?;
            return self.store.put(&self.path(name), whole.into()).await.map(|_| ()).map_err(failed);
        }
        let mut upload = self.store.put_multipart(&self.path(name)).await.map_err(failed)?;
        let parts = async {
            let mut left = bytes;
            while left > 0 {
                let part = read_part(&mut file, left.min(part_bytes)).map_err(local)?;
                left -= part.len() as u64;
                upload.put_part(part.into()).await.map_err(failed)?;
            }
            upload.complete().await.map(|_| ()).map_err(failed)
        };
        let outcome = parts.await;
        if outcome.is_err() {
            // Parts that nobody completes cost money. If this fails too, a rule of the bucket removes them.
            let _ = upload.abort().await;
        }
        outcome
    }

    /// Puts a small object unless it is there; returns whether it was not.
    pub async fn put_new(&self, name: &str, content: Vec<u8>) -> Result<bool, String> {
        let (path, payload) = (self.path(name), PutPayload::from(Bytes::from(content)));
        let failed = |error: &object_store::Error| Err(format!("{name}: {}", shown_error(error)));
        match self.store.put_opts(&path, payload.clone(), PutMode::Create.into()).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => Ok(false),
            Err(error) if knows_no_conditions(&error) => {
                // Some stores have no conditions; who uploads alone needs none.
                if self.size(name).await?.is_some() {
                    return Ok(false);
                }
                self.store.put(&path, payload).await.map(|_| true).or_else(|error| failed(&error))
            }
            Err(error) => failed(&error),
        }
    }
}

/// Whose fault it is that a file could not be uploaded.
#[derive(Debug)]
pub enum FileError {
    Local(String),
    Bucket(String),
}

fn knows_no_conditions(error: &object_store::Error) -> bool {
    matches!(error, object_store::Error::NotImplemented { .. } | object_store::Error::NotSupported { .. })
        || error.to_string().contains("501 Not Implemented")
}

fn read_part(file: &mut File, bytes: u64) -> std::io::Result<Bytes> {
    let mut part = Vec::with_capacity(usize::try_from(bytes).unwrap_or(0));
    file.take(bytes).read_to_end(&mut part)?;
    if part.len() as u64 != bytes {
        return Err(std::io::Error::other("it became shorter"));
    }
    Ok(part.into())
}

type Store = Result<Arc<dyn ObjectStore>, String>;

fn text(error: object_store::Error) -> String {
    shown_error(&error)
}

/// The region of an endpoint of AWS.
fn region_of(endpoint: &str) -> Option<&str> {
    let host = endpoint.split(':').next()?.strip_suffix(".amazonaws.com")?;
    let host = host.strip_prefix("s3.").or_else(|| host.strip_prefix("s3-"))?;
    Some(host.strip_prefix("dualstack.").unwrap_or(host)).filter(|region| !region.is_empty())
}

fn s3(config: &S3Storage) -> Store {
    let has_keys = !config.access_key.is_empty() && !config.aws_sdk_auth;
    let mut builder = if has_keys { AmazonS3Builder::new() } else { AmazonS3Builder::from_env() };
    if has_keys {
        let secret = config.secret_key.as_ref().map(|key| key.reveal()).unwrap_or_default();
        builder = builder.with_access_key_id(&config.access_key).with_secret_access_key(secret);
        if let Some(token) = &config.session_token {
            builder = builder.with_token(token.reveal());
        }
    }
    let host = config.endpoint.split(':').next().unwrap_or_default();
    let is_aws = host.ends_with(".amazonaws.com");
    let is_virtual = match config.bucket_lookup_type {
        BucketLookup::Auto => is_aws,
        BucketLookup::Path => false,
        BucketLookup::VirtualHosted => true,
    };
    let scheme = if config.insecure { "http" } else { "https" };
    let endpoint = match is_virtual {
        true => format!("{scheme}://{}.{}", config.bucket, config.endpoint),
        false => format!("{scheme}://{}", config.endpoint),
    };
    let region = match &*config.region {
        "" => region_of(&config.endpoint).unwrap_or("us-east-1"),
        region => region,
    };
    builder = builder
        .with_bucket_name(&config.bucket)
        .with_region(region)
        .with_endpoint(endpoint)
        .with_virtual_hosted_style_request(is_virtual)
        .with_allow_http(config.insecure)
        .with_retry(retry(config.max_retries))
        .with_http_connector(Connector::new(&config.http_config));
    if let Some(sse) = &config.sse_config {
        builder = match sse.r#type {
            Some(SseType::Kms) => builder.with_sse_kms_encryption(&sse.kms_key_id),
            Some(SseType::Customer) => {
                let file = sse.encryption_key.clone().unwrap_or_default();
                let key = std::fs::read(&file).map_err(|error| format!("{}: {error}", file.display()))?;
                builder.with_ssec_encryption(base64::engine::general_purpose::STANDARD.encode(key))
            }
            Some(SseType::S3) | None => {
                let key = "aws_server_side_encryption".parse().map_err(text)?;
                builder.with_config(key, "AES256")
            }
        };
    }
    Ok(Arc::new(builder.build().map_err(text)?))
}

fn gcs(config: &GcsStorage) -> Store {
    let mut builder = match &config.service_account {
        Some(account) => GoogleCloudStorageBuilder::new().with_service_account_key(account.reveal()),
        None => GoogleCloudStorageBuilder::from_env(),
    };
    builder = builder
        .with_bucket_name(&config.bucket)
        .with_retry(retry(config.max_retries))
        .with_http_connector(Connector::new(&config.http_config));
    Ok(Arc::new(builder.build().map_err(text)?))
}

/// The parts of a connection string.
fn part_of<'a>(connection: &'a str, name: &str) -> Option<&'a str> {
    let parts = connection.split(';').filter_map(|part| part.split_once('='));
    parts.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

fn azure(config: &AzureStorage) -> Store {
    let connection = config.storage_connection_string.as_ref().map(|string| string.reveal()).unwrap_or_default();
    let given = |own: &str, part: &str| match own {
        "" => part_of(connection, part).unwrap_or_default().to_owned(),
        own => own.to_owned(),
    };
    let secret =
        |own: &Option<config::Secret>| own.as_ref().map(|secret| secret.reveal()).unwrap_or_default().to_owned();
    let account = given(&config.storage_account, "AccountName");
    let endpoint = match part_of(connection, "BlobEndpoint") {
        Some(endpoint) => endpoint.trim_end_matches('/').to_owned(),
        None => format!("https://{account}.{}", config.endpoint),
    };
    let mut builder = MicrosoftAzureBuilder::new()
        .with_account(&account)
        .with_container_name(&config.container)
        .with_allow_http(endpoint.starts_with("http://"))
        .with_endpoint(endpoint)
        .with_retry(retry(config.max_retries))
        .with_http_connector(Connector::new(&config.http_config));
    let key = given(&secret(&config.storage_account_key), "AccountKey");
    let sas = given(&secret(&config.sas_token), "SharedAccessSignature");
    if !key.is_empty() {
        builder = builder.with_access_key(key);
    } else if !sas.is_empty() {
        builder = builder.with_sas_authorization(split_sas(&sas).map_err(|_| "sas_token is none".to_owned())?);
    } else if let Some(client_secret) = &config.client_secret {
        builder =
            builder.with_client_secret_authorization(&config.client_id, client_secret.reveal(), &config.az_tenant_id);
    } else if !config.user_assigned_id.is_empty() {
        builder = builder.with_config(AzureConfigKey::ClientId, &config.user_assigned_id);
    }
    Ok(Arc::new(builder.build().map_err(text)?))
}

fn filesystem(config: &FilesystemStorage) -> Store {
    let folder = config.directory.clone().unwrap_or_default();
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let store = LocalFileSystem::new_with_prefix(&folder).map_err(text)?;
    Ok(Arc::new(store.with_fsync(true)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_shown_without_tokens_and_bodies() {
        let error = std::io::Error::other(
            "Error performing PUT https://a.blob.core.windows.net/c/x?sv=1&sig=secret in 1s - Server returned non-2xx status code: 403 \
             Forbidden: <?xml version=\"1.0\"?><Error><Code>SignatureDoesNotMatch</Code><Message>It does not.</Message>\
             <StringToSign>secret</StringToSign></Error>",
        );
        let text = shown_error(&error);
        assert!(
            !text.contains("secret") && text.ends_with("403 Forbidden: SignatureDoesNotMatch: It does not."),
            "{text}"
        );
        assert_eq!(shown_error(&std::io::Error::other("x".repeat(100_000))).len(), ERROR_CHARS_MAX);
    }

    #[test]
    fn regions_are_those_of_endpoints_of_aws() {
        for (endpoint, want) in [
            ("s3.eu-west-1.amazonaws.com", Some("eu-west-1")),
            ("s3.dualstack.eu-west-1.amazonaws.com:443", Some("eu-west-1")),
            ("s3-us-west-2.amazonaws.com", Some("us-west-2")),
            ("s3.amazonaws.com", None),
            ("minio:9000", None),
        ] {
            assert_eq!(region_of(endpoint), want, "{endpoint}");
        }
    }

    #[test]
    fn connection_strings_are_taken_apart() {
        let string = "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=k==;EndpointSuffix=core.windows.net";
        assert_eq!((part_of(string, "accountname"), part_of(string, "AccountKey")), (Some("a"), Some("k==")));
        assert_eq!(part_of(string, "BlobEndpoint"), None);
    }
}
