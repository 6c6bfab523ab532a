//! The section `object_storage`: where finished blocks are uploaded to. Its fields are those of Thanos' `objstore` configuration,
//! so that one file can be used for both; Prometheus has no such section.

use crate::Secret;
use crate::decode::{Context, Fields, Section, Tree, Value, choices, section};
use crate::http::TlsConfig;
use crate::yaml::Node;
use std::path::PathBuf;
use std::time::Duration;

/// Parts of S3 have at least 5 MiB, and are in memory one at a time.
const PART_BYTES_MIN: u64 = 5 << 20;
const PART_BYTES_MAX: u64 = 1 << 30;

choices! {
    /// Kinds of object storage.
    pub enum ObjectStorageType, any_case {
        S3 = "S3",
        Gcs = "GCS",
        Azure = "AZURE",
        Filesystem = "FILESYSTEM",
    }
}

/// Where blocks are uploaded to.
#[derive(Clone, Debug, PartialEq)]
pub struct ObjectStorage {
    pub provider: ObjectStorageProvider,
    /// Before the name of each object. Default: none.
    pub prefix: String,
    /// Whether blocks are uploaded that overlap an uploaded one, as blocks of late samples do. Default false: Thanos' compactor halts
    /// on them unless vertical compaction is enabled.
    pub allow_overlaps: bool,
}

/// The settings of one kind.
#[derive(Clone, Debug, PartialEq)]
pub enum ObjectStorageProvider {
    S3(Box<S3Storage>),
    Gcs(Box<GcsStorage>),
    Azure(Box<AzureStorage>),
    Filesystem(FilesystemStorage),
}

section! {
    /// A bucket of S3, or of what speaks its protocol.
    pub struct S3Storage in "config of S3", check = S3Storage::check {
        /// Required.
        bucket: String = String::new(),
        /// `host` or `host:port`. Required.
        endpoint: String = String::new(),
        /// Default: that of an endpoint of AWS, else us-east-1.
        region: String = String::new(),
        /// Default: keys of the environment, a web identity, the container or the instance.
        access_key: String = String::new(),
        secret_key: Option<Secret> = None,
        session_token: Option<Secret> = None,
        /// Whether credentials of the environment are used even if there are keys. Default false.
        aws_sdk_auth: bool = false,
        /// Whether to do without TLS. Default false.
        insecure: bool = false,
        /// auto, path or virtual-hosted. Default auto: virtual-hosted for AWS, else path.
        bucket_lookup_type: BucketLookup = BucketLookup::Auto,
        /// Bytes of a part of a larger file; at least 5 MiB. Default 16 MiB.
        part_size: u64 = 16 << 20,
        /// Whether files are sent in one request. Default false.
        disable_multipart: bool = false,
        /// Retries of a request within one attempt. Default 3.
        max_retries: u64 = 0,
        /// Encryption by the server.
        sse_config: Option<SseConfig> = None,
        /// TLS and timeouts.
        http_config: ObjectStorageHttp = ObjectStorageHttp::default(),
        /// Accepted, without effect.
        disable_dualstack: bool = false,
        send_content_md5: bool = true,
        list_objects_version: String = String::new(),
        trace: ObjectStorageTrace = ObjectStorageTrace::default(),
        /// Refused if they are set.
        signature_version2: bool = false,
        sts_endpoint: String = String::new(),
        put_user_metadata: Vec<(String, String)> = Vec::new(),
    }
}

choices! {
    /// Where the name of the bucket goes.
    pub enum BucketLookup {
        Auto = "auto",
        Path = "path",
        VirtualHosted = "virtual-hosted",
    }
}

section! {
    /// Encryption by the server.
    pub struct SseConfig in "sse_config", check = SseConfig::check {
        /// Required.
        r#type: Option<SseType> = None,
        /// For SSE-KMS.
        kms_key_id: String = String::new(),
        /// A file with the key, for SSE-C.
        encryption_key: Option<PathBuf> = None,
    }
}

choices! {
    /// Kinds of encryption.
    pub enum SseType {
        S3 = "SSE-S3",
        Kms = "SSE-KMS",
        Customer = "SSE-C",
    }
}

section! {
    /// Accepted, without effect.
    pub struct ObjectStorageTrace in "trace" {
        enable: bool = false,
    }
}

section! {
    /// How to speak to the storage.
    pub struct ObjectStorageHttp in "http_config" {
        /// TLS of the connections.
        tls_config: TlsConfig = TlsConfig::default(),
        /// The same as that of `tls_config`. Default false.
        insecure_skip_verify: bool = false,
        /// Accepted, without effect.
        idle_conn_timeout: Duration = Duration::from_secs(90),
        response_header_timeout: Duration = Duration::from_secs(120),
        tls_handshake_timeout: Duration = Duration::from_secs(10),
        expect_continue_timeout: Duration = Duration::from_secs(1),
        max_idle_conns: u64 = 100,
        max_idle_conns_per_host: u64 = 100,
        max_conns_per_host: u64 = 0,
        disable_compression: bool = false,
    }
}

section! {
    /// A bucket of Google's cloud.
    pub struct GcsStorage in "config of GCS", check = GcsStorage::check {
        /// Required.
        bucket: String = String::new(),
        /// The JSON of a service account. Default: GOOGLE_APPLICATION_CREDENTIALS, or the instance.
        service_account: Option<Secret> = None,
        /// Retries of a request within one attempt. Default 3.
        max_retries: u64 = 0,
        /// TLS and timeouts.
        http_config: ObjectStorageHttp = ObjectStorageHttp::default(),
        /// Accepted, without effect: HTTP is used.
        use_grpc: bool = false,
        grpc_conn_pool_size: u64 = 0,
        chunk_size_bytes: u64 = 0,
    }
}

section! {
    /// A container of Azure.
    pub struct AzureStorage in "config of AZURE", check = AzureStorage::check {
        /// Required.
        storage_account: String = String::new(),
        /// Default: the identity of the instance.
        storage_account_key: Option<Secret> = None,
        /// `AccountName=…;AccountKey=…`, instead of the two above.
        storage_connection_string: Option<Secret> = None,
        sas_token: Option<Secret> = None,
        /// Required. It must exist.
        container: String = String::new(),
        /// Default blob.core.windows.net.
        endpoint: String = "blob.core.windows.net".to_owned(),
        /// The identity of several.
        user_assigned_id: String = String::new(),
        az_tenant_id: String = String::new(),
        client_id: String = String::new(),
        client_secret: Option<Secret> = None,
        /// Retries of a request within one attempt. Default 3.
        max_retries: u64 = 0,
        /// TLS and timeouts.
        http_config: ObjectStorageHttp = ObjectStorageHttp::default(),
        /// Accepted, without effect.
        storage_create_container: bool = false,
    }
}

section! {
    /// A folder.
    pub struct FilesystemStorage in "config of FILESYSTEM", check = FilesystemStorage::check {
        /// Required. It is created.
        directory: Option<PathBuf> = None,
    }
}

fn require(fields: &Fields, name: &str, value: &str) {
    if value.is_empty() {
        fields.refuse(name, &format!("no {name} of the object storage; say where blocks go"));
    }
}

impl S3Storage {
    fn check(&mut self, fields: &mut Fields) {
        require(fields, "bucket", &self.bucket);
        require(fields, "endpoint", &self.endpoint);
        if self.endpoint.contains("://") || self.endpoint.contains('/') {
            fields.refuse(
                "endpoint",
                "the endpoint is a host and a port without a scheme; `insecure: true` chooses http",
            );
        }
        if self.access_key.is_empty() != self.secret_key.is_none() {
            fields.refuse("access_key", "access_key and secret_key go together; give both or none");
        }
        if !(PART_BYTES_MIN..=PART_BYTES_MAX).contains(&self.part_size) {
            fields.refuse("part_size", &format!("part_size must be {PART_BYTES_MIN} to {PART_BYTES_MAX} bytes"));
        }
        let unsupported = [
            ("signature_version2", self.signature_version2),
            ("sts_endpoint", !self.sts_endpoint.is_empty()),
            ("put_user_metadata", !self.put_user_metadata.is_empty()),
        ];
        for (name, _) in unsupported.iter().filter(|(_, is_set)| *is_set) {
            fields.refuse(name, &format!("{name} is not supported; remove it"));
        }
    }
}

impl SseConfig {
    fn check(&mut self, fields: &mut Fields) {
        match self.r#type {
            None => fields.refuse("type", "no type of sse_config; write SSE-S3, SSE-KMS or SSE-C"),
            Some(SseType::Kms) if self.kms_key_id.is_empty() => {
                fields.refuse("kms_key_id", "SSE-KMS needs kms_key_id; name the key");
            }
            Some(SseType::Customer) if self.encryption_key.is_none() => {
                fields.refuse("encryption_key", "SSE-C needs encryption_key; name the file with the key");
            }
            Some(_) => {}
        }
    }
}

impl GcsStorage {
    fn check(&mut self, fields: &mut Fields) {
        require(fields, "bucket", &self.bucket);
    }
}

impl AzureStorage {
    fn check(&mut self, fields: &mut Fields) {
        require(fields, "container", &self.container);
        if self.storage_connection_string.is_none() {
            require(fields, "storage_account", &self.storage_account);
        }
    }
}

impl FilesystemStorage {
    fn check(&mut self, fields: &mut Fields) {
        if self.directory.is_none() {
            require(fields, "directory", "");
        }
    }
}

impl ObjectStorageProvider {
    pub fn kind(&self) -> ObjectStorageType {
        match self {
            ObjectStorageProvider::S3(_) => ObjectStorageType::S3,
            ObjectStorageProvider::Gcs(_) => ObjectStorageType::Gcs,
            ObjectStorageProvider::Azure(_) => ObjectStorageType::Azure,
            ObjectStorageProvider::Filesystem(_) => ObjectStorageType::Filesystem,
        }
    }

    fn read(kind: ObjectStorageType, fields: &mut Fields) -> Option<ObjectStorageProvider> {
        // Each kind refuses what it needs and does not have.
        fn config<T: Section + Value + Default>(fields: &mut Fields) -> Option<T> {
            if !fields.has("config") {
                fields.refuse("config", "no config of the object storage; say where blocks go");
            }
            fields.take("config")
        }
        Some(match kind {
            ObjectStorageType::S3 => ObjectStorageProvider::S3(Box::new(config(fields)?)),
            ObjectStorageType::Gcs => ObjectStorageProvider::Gcs(Box::new(config(fields)?)),
            ObjectStorageType::Azure => ObjectStorageProvider::Azure(Box::new(config(fields)?)),
            ObjectStorageType::Filesystem => ObjectStorageProvider::Filesystem(config(fields)?),
        })
    }

    fn write(&self) -> Tree {
        match self {
            ObjectStorageProvider::S3(config) => config.write(),
            ObjectStorageProvider::Gcs(config) => config.write(),
            ObjectStorageProvider::Azure(config) => config.write(),
            ObjectStorageProvider::Filesystem(config) => config.write(),
        }
    }
}

impl Value for ObjectStorage {
    fn read(node: &Node, cx: &Context) -> Option<ObjectStorage> {
        let mut fields = Fields::of(node, cx, "object_storage")?;
        let kind: Option<ObjectStorageType> = fields.take("type");
        if !fields.has("type") {
            fields.refuse("type", "no type of object_storage; write S3, GCS, AZURE or FILESYSTEM");
        }
        let provider = kind.and_then(|kind| ObjectStorageProvider::read(kind, &mut fields));
        let prefix: String = fields.take("prefix").unwrap_or_default();
        let allow_overlaps = fields.take("allow_overlaps").unwrap_or(false);
        if kind.is_some() {
            fields.finish("object_storage");
        }
        Some(ObjectStorage { provider: provider?, prefix: prefix.trim_matches('/').to_owned(), allow_overlaps })
    }

    fn write(&self) -> Tree {
        let mut out = vec![
            ("type".to_owned(), Tree::Text(self.provider.kind().name().to_owned())),
            ("config".to_owned(), self.provider.write()),
        ];
        if !self.prefix.is_empty() {
            out.push(("prefix".to_owned(), Tree::Text(self.prefix.clone())));
        }
        if self.allow_overlaps {
            out.push(("allow_overlaps".to_owned(), self.allow_overlaps.write()));
        }
        Tree::Map(out)
    }
}

#[cfg(test)]
mod tests {
    use crate::{Config, Env, parse_config};

    fn parse(settings: &str) -> Result<Config, String> {
        let yaml = format!("global: {{external_labels: {{c: x}}}}\nobject_storage:\n{settings}");
        parse_config("p.yml".as_ref(), &yaml, &Env::process()).map_err(|errors| errors.to_string())
    }

    /// As Thanos' documentation has it, with all fields.
    const S3: &str = "  type: S3
  prefix: /a/b/
  config:
    bucket: b
    endpoint: s3.eu-west-1.amazonaws.com
    region: ''
    disable_dualstack: false
    aws_sdk_auth: false
    access_key: AK
    insecure: false
    signature_version2: false
    secret_key: hidden-one
    session_token: hidden-two
    put_user_metadata: {}
    http_config:
      idle_conn_timeout: 1m30s
      response_header_timeout: 2m
      insecure_skip_verify: false
      tls_handshake_timeout: 10s
      expect_continue_timeout: 1s
      max_idle_conns: 100
      max_idle_conns_per_host: 100
      max_conns_per_host: 0
      tls_config: {ca_file: '', cert_file: '', key_file: '', server_name: '', insecure_skip_verify: false}
      disable_compression: false
    trace: {enable: false}
    list_objects_version: ''
    bucket_lookup_type: auto
    send_content_md5: true
    disable_multipart: false
    part_size: 67108864
    sse_config: {type: SSE-KMS, kms_key_id: k}
    sts_endpoint: ''
    max_retries: 0
";

    #[test]
    fn secrets_are_hidden_and_the_rest_loads_again() {
        let config = parse(S3).unwrap();
        let text = config.to_yaml();
        assert!(!text.contains("hidden") && text.contains("secret_key: <secret>"), "{text}");
        let again = parse_config("p.yml".as_ref(), &text, &Env::process()).unwrap();
        let (storage, again) = (config.object_storage.unwrap(), again.object_storage.unwrap());
        assert_eq!((&*storage.prefix, again.prefix), ("a/b", storage.prefix.clone()));
        for settings in [
            "  type: filesystem\n  config: {directory: d}\n",
            "  type: GCS\n  config: {bucket: b, service_account: '{}'}\n",
            "  type: AZURE\n  config: {storage_account: a, storage_account_key: k, container: c, max_retries: 2}\n",
            "  type: AZURE\n  config: {storage_connection_string: x, container: c}\n",
        ] {
            let config = parse(settings).unwrap();
            assert!(parse_config("p.yml".as_ref(), &config.to_yaml(), &Env::process()).is_ok(), "{}", config.to_yaml());
        }
    }

    #[test]
    fn mistakes_are_refused_with_their_remedy() {
        for (settings, want) in [
            ("  {}\n", "no type of object_storage"),
            ("  type: TAPE\n", "TAPE"),
            ("  type: S3\n", "no config of the object storage"),
            ("  type: S3\n  config: {endpoint: e}\n", "no bucket"),
            ("  type: S3\n  config: {bucket: b, endpoint: 'https://e'}\n", "without a scheme"),
            ("  type: S3\n  config: {bucket: b, endpoint: e, access_key: k}\n", "go together"),
            ("  type: S3\n  config: {bucket: b, endpoint: e, part_size: 1}\n", "part_size must be"),
            ("  type: S3\n  config: {bucket: b, endpoint: e, signature_version2: true}\n", "not supported"),
            ("  type: S3\n  config: {bucket: b, endpoint: e, sse_config: {type: SSE-C}}\n", "SSE-C needs"),
            ("  type: S3\n  config: {bucket: b, endpoint: e, buckets: x}\n", "field buckets not found"),
            ("  type: FILESYSTEM\n  config: {}\n", "no directory"),
            ("  type: GCS\n  config: {bucket: b}\n  prefixes: x\n", "did you mean prefix?"),
        ] {
            let error = parse(settings).unwrap_err();
            assert!(error.contains(want), "{settings}: {error}");
        }
        let without_labels = "object_storage: {type: FILESYSTEM, config: {directory: d}}\n";
        let error = parse_config("p.yml".as_ref(), without_labels, &Env::process()).unwrap_err().to_string();
        assert!(error.contains("no external labels configured"), "{error}");
    }
}
