//! `isle build`.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;

use isle_build::{BuildRequest, Cancel, Context as Files, DockerfileSource, NamedContext, Output, Provenance, Secret,
};
use isle_engine::config::{HostAddress, Ulimit};
use isle_image::{Platform, Reference};
use isle_types::{ByteSize, Isolation};
use signal_hook::consts::signal::{SIGHUP, SIGINT, SIGTERM};

use crate::build_progress::Form;
use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::flags::network::NetworkFlag;
use crate::flags::{FlagError, csv, labels, network, resources, ulimit};
use crate::output;

pub const ABOUT: &str = "Build an image from a Dockerfile";
pub const EXAMPLES: &str = "  isle build -t shop .
  isle build -t shop --target test --build-arg VERSION=2 -f docker/Dockerfile .
  isle build --isolation vm -t shop .
  isle build --output ./out .";

/// Flags of `build`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Name of the image
    #[arg(short, long, value_name = "NAME[:TAG]")]
    tag: Vec<Reference>,
    /// Dockerfile, below the context; - for standard input
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Stage to build
    #[arg(long, value_name = "STAGE")]
    target: Option<String>,
    /// Value of an ARG; that of the environment without =VALUE
    #[arg(long, value_name = "NAME[=VALUE]")]
    build_arg: Vec<String>,
    /// Secret for RUN --mount=type=secret: id=NAME,src=FILE or id=NAME,env=VARIABLE
    #[arg(long, value_name = "SECRET", value_parser = secret)]
    secret: Vec<(String, Secret)>,
    /// SSH agent for RUN --mount=type=ssh: default, or NAME=SOCKET
    #[arg(long, value_name = "AGENT")]
    ssh: Vec<String>,
    /// Build every step anew
    #[arg(long)]
    no_cache: bool,
    /// Build every step of a stage anew
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    no_cache_filter: Vec<String>,
    /// Ask the registry for images that are here too
    #[arg(long)]
    pull: bool,
    /// Platform of the image
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<Platform>,
    /// Label of the image
    #[arg(long, value_name = "KEY=VALUE", value_parser = labels::label)]
    label: Vec<(String, String)>,
    /// Where the result goes: a folder, or type=image|registry|local|tar|oci|docker[,dest=PATH]
    #[arg(short, long, value_name = "OUTPUT", value_parser = outputs)]
    output: Vec<Output>,
    /// Push the image to its registry
    #[arg(long)]
    push: bool,
    /// Put the image into the store (what happens anyway)
    #[arg(long)]
    load: bool,
    /// How progress is shown: auto, plain, tty, rawjson or quiet
    #[arg(long, value_name = "FORM", default_value = "auto", hide_possible_values = true, env = "BUILDKIT_PROGRESS")]
    progress: Form,
    /// No progress; print the image's id
    #[arg(short, long)]
    quiet: bool,
    /// Level of isolation of each RUN
    #[arg(long, value_name = "LEVEL", default_value = "container")]
    isolation: Isolation,
    /// Write the image's id to a file
    #[arg(long, value_name = "FILE")]
    iidfile: Option<PathBuf>,
    /// Write what was built to a file, as JSON
    #[arg(long, value_name = "FILE")]
    metadata_file: Option<PathBuf>,
    /// Network of RUN
    #[arg(long, value_name = "NETWORK", value_parser = network::network, env = "ISLE_NETWORK")]
    network: Option<NetworkFlag>,
    /// Line for /etc/hosts of RUN
    #[arg(long, value_name = "NAME:ADDRESS", value_parser = network::host)]
    add_host: Vec<(String, HostAddress)>,
    /// Size of /dev/shm of RUN
    #[arg(long, value_name = "SIZE")]
    shm_size: Option<ByteSize>,
    /// Most memory that one RUN may use
    #[arg(short, long, value_name = "SIZE", value_parser = resources::memory)]
    memory: Option<ByteSize>,
    /// Limit of RUN, as setrlimit(2) has it
    #[arg(long, value_name = "NAME=SOFT[:HARD]", value_parser = ulimit::ulimit)]
    ulimit: Vec<Ulimit>,
    /// Further files, or an image, by name: NAME=PATH or NAME=docker-image://IMAGE
    #[arg(long, value_name = "NAME=SOURCE", value_parser = named_context)]
    build_context: Vec<(String, NamedContext)>,
    /// Cache to use too: type=local,src=FOLDER
    #[arg(long, value_name = "CACHE", value_parser = cache)]
    cache_from: Vec<PathBuf>,
    /// Where to write the cache of this build: type=local,dest=FOLDER
    #[arg(long, value_name = "CACHE", value_parser = cache)]
    cache_to: Vec<PathBuf>,
    /// Tell what is odd about the Dockerfile, and build nothing
    #[arg(long)]
    check: bool,
    /// Annotation of the manifest, in an OCI archive
    #[arg(long, value_name = "KEY=VALUE", value_parser = annotation)]
    annotation: Vec<(String, String)>,
    /// Attest how the image was made: true, mode=min or mode=max
    #[arg(long, value_name = "MODE", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = provenance)]
    provenance: Option<Attested>,
    /// Attest what is in the image
    #[arg(long)]
    sbom: bool,
    /// Attest: type=sbom or type=provenance[,mode=max]
    #[arg(long, value_name = "ATTESTATION", value_parser = attestation)]
    attest: Vec<Attested>,
    /// What RUN may ask for: network.host, security.insecure
    #[arg(long, value_name = "ENTITLEMENT")]
    allow: Vec<String>,
    /// Folder of files, - for an archive or a Dockerfile from standard input, or a git address
    #[arg(value_name = "CONTEXT", allow_hyphen_values = true)]
    context: String,
}

pub fn run(args: &Args, context: &Context) -> Result {
    build(args, &request(args)?, context)
}

/// Builds what a request describes; of the flags counts how it is told.
pub fn build(args: &Args, request: &BuildRequest, context: &Context) -> Result {
    let writes_stdout = request
        .outputs
        .iter()
        .any(|output| matches!(output, Output::Tar(None) | Output::Oci(None) | Output::Docker(None)));
    if writes_stdout && rustix::termios::isatty(std::io::stdout()) {
        return Err(Failure::new("an archive is not written to a terminal")
            .hint("name a file with dest=FILE, or send the output somewhere")
            .into());
    }
    if args.check {
        return check(request, context);
    }
    let cancel = Cancel::default();
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // Twice: who insists is let go at once, and the next build clears up.
        signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, cancel.flag())?;
        signal_hook::flag::register(signal, cancel.flag())?;
    }
    let form = match args.quiet {
        true => Form::Quiet,
        false => args.progress,
    };
    let progress = form.open();
    let engine = context.engine()?;
    let built = match isle_build::build(engine, request, &cancel, &*progress) {
        Ok(built) => built,
        Err(isle_build::BuildError::Cancelled) => {
            return Err(Failure::new("the build was stopped").code(130).into());
        }
        Err(error) => {
            if let isle_build::BuildError::Dockerfile { excerpt, .. } = &error {
                eprintln!("{}", printable_lines(excerpt));
            }
            return Err(error.into());
        }
    };
    if let Some(id) = &built.image_id {
        if let Some(path) = &args.iidfile {
            write(path, id.as_bytes())?;
        }
        let name = request.tags.first().map_or_else(|| id.clone(), Reference::familiar);
        engine.record_image_event("build", id, &name)?;
        if args.quiet && !writes_stdout {
            output::line(id)?;
        }
    }
    if let Some(path) = &args.metadata_file {
        let text = serde_json::to_vec_pretty(&built.metadata)?;
        write(path, &text)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn write(path: &PathBuf, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).map_err(|error| {
        Failure::new(format!("cannot write {}", path.display()))
            .hint("name a file in a folder that you can write")
            .because(error)
            .into()
    })
}

/// `--check`: as `docker build --check`.
fn check(request: &BuildRequest, context: &Context) -> Result {
    let warnings = isle_build::check(context.engine()?, request)?;
    if warnings.is_empty() {
        output::line("Check complete, no warnings found.")?;
        return Ok(ExitCode::SUCCESS);
    }
    let count = warnings.len();
    let mut text = format!("Check complete, {count} warning{} found!\n", if count == 1 { " has been" } else { "s have been" });
    for warning in &warnings {
        let link = warning_page(warning.rule);
        text.push_str(&format!(
            "\nWARNING: {} - {link}\n{}\nline {}\n",
            warning.rule,
            isle_format::printable(&warning.text),
            warning.place.line
        ));
    }
    output::print(&text)?;
    Ok(ExitCode::FAILURE)
}

/// `https://docs.docker.com/go/dockerfile/rule/stage-name-casing/`
fn warning_page(rule: &str) -> String {
    let mut name = String::new();
    let letters: Vec<char> = rule.chars().collect();
    for (index, letter) in letters.iter().enumerate() {
        let begins = letter.is_ascii_uppercase()
            && index > 0
            && (letters[index - 1].is_ascii_lowercase() || letters.get(index + 1).is_some_and(char::is_ascii_lowercase));
        if begins {
            name.push('-');
        }
        name.push(letter.to_ascii_lowercase());
    }
    format!("https://docs.docker.com/go/dockerfile/rule/{name}/")
}

/// Each line as it can be shown.
fn printable_lines(text: &str) -> String {
    let lines = text.lines().map(|line| isle_format::printable(line).into_owned());
    lines.collect::<Vec<_>>().join("\n")
}

/// What the flags ask for.
pub fn request(args: &Args) -> Result<BuildRequest> {
    let (context, dockerfile) = sources(args)?;
    let mut values = BTreeMap::new();
    // As buildx: it is meant for every build.
    if let Ok(epoch) = std::env::var("SOURCE_DATE_EPOCH") {
        values.insert("SOURCE_DATE_EPOCH".to_owned(), epoch);
    }
    for text in &args.build_arg {
        match text.split_once('=') {
            Some((name, value)) => {
                values.insert(name.to_owned(), value.to_owned());
            }
            None => {
                if let Ok(value) = std::env::var(text) {
                    values.insert(text.clone(), value);
                }
            }
        }
    }
    let mut ssh = BTreeMap::new();
    for text in &args.ssh {
        let (id, path) = match text.split_once('=') {
            Some((id, path)) => (id, Some(PathBuf::from(path))),
            None => (text.as_str(), None),
        };
        let path = path.or_else(|| std::env::var_os("SSH_AUTH_SOCK").map(PathBuf::from));
        let path = path.ok_or_else(|| {
            Failure::new("no SSH agent is there: SSH_AUTH_SOCK is not set").hint("start ssh-agent, or name its socket: --ssh default=SOCKET")
        })?;
        ssh.insert(id.to_owned(), std::path::absolute(path)?);
    }
    let mut outputs = args.output.clone();
    if args.push {
        outputs.push(Output::Registry);
    }
    if args.load && !outputs.contains(&Output::Image) {
        outputs.push(Output::Image);
    }
    let flags: Vec<NetworkFlag> = args.network.iter().cloned().collect();
    let mut request = BuildRequest {
        context,
        dockerfile,
        target: args.target.clone(),
        args: values,
        tags: args.tag.clone(),
        labels: args.label.iter().cloned().collect(),
        secrets: args.secret.iter().cloned().collect(),
        ssh,
        platform: args.platform.clone(),
        no_cache: args.no_cache,
        no_cache_filter: args.no_cache_filter.clone(),
        pull: args.pull,
        network: network::mode(&flags)?,
        isolation: args.isolation,
        extra_hosts: args.add_host.clone(),
        shm_size: args.shm_size,
        memory: args.memory,
        ulimits: args.ulimit.clone(),
        contexts: args.build_context.iter().cloned().collect(),
        outputs,
        cache_from: args.cache_from.clone(),
        cache_to: args.cache_to.clone(),
        annotations: args.annotation.iter().cloned().collect(),
        sbom: args.sbom,
        provenance: args.provenance.and_then(|attested| attested.0),
        ..BuildRequest::default()
    };
    if flags.is_empty() {
        request.network = network::mode(&[network::network("default")?])?;
    }
    for attested in &args.attest {
        match attested.0 {
            Some(provenance) => request.provenance = Some(provenance),
            None => request.sbom = true,
        }
    }
    for entitlement in &args.allow {
        match entitlement.as_str() {
            "network.host" => request.allows_host_network = true,
            "security.insecure" => request.allows_insecure = true,
            other => {
                return Err(Failure::new(format!("--allow {other} is not known"))
                    .hint("there are network.host and security.insecure")
                    .into());
            }
        }
    }
    Ok(request)
}

fn sources(args: &Args) -> Result<(Files, DockerfileSource)> {
    let reads_dockerfile = args.file.as_deref().is_some_and(|file| file.as_os_str() == "-");
    let text_of_stdin = || -> Result<String> {
        let mut text = String::new();
        std::io::stdin().lock().take(8 << 20).read_to_string(&mut text)?;
        Ok(text)
    };
    let dockerfile = match &args.file {
        Some(_) if reads_dockerfile => DockerfileSource::Text(text_of_stdin()?),
        Some(file) => DockerfileSource::Path(file.clone()),
        None => DockerfileSource::Default,
    };
    if args.context != "-" {
        return Ok((place(&args.context), dockerfile));
    }
    if reads_dockerfile {
        return Err(Failure::new("standard input cannot be the context and the Dockerfile")
            .hint("name one of them")
            .into());
    }
    // An archive, or the text of a Dockerfile: as Docker, told by what it begins with.
    let mut input = std::io::stdin().lock();
    let mut bytes = Vec::new();
    input.read_to_end(&mut bytes)?;
    let is_archive = bytes.starts_with(&[0x1f, 0x8b])
        || bytes.starts_with(&[0x28, 0xb5, 0x2f, 0xfd])
        || bytes.get(257..262) == Some(b"ustar");
    match is_archive {
        false => Ok((Files::Empty, DockerfileSource::Text(String::from_utf8_lossy(&bytes).into_owned()))),
        true => Ok((Files::Stdin(bytes), dockerfile)),
    }
}

fn place(text: &str) -> Files {
    let is_git = isle_build::is_git(text);
    match is_git {
        true => Files::Git(text.to_owned()),
        false => Files::Directory(PathBuf::from(text)),
    }
}

/// `id=NAME,src=FILE`
fn secret(text: &str) -> std::result::Result<(String, Secret), FlagError> {
    let fix = "write id=NAME,src=FILE or id=NAME,env=VARIABLE";
    let (mut id, mut file, mut variable) = (None, None, None);
    for field in csv::fields(text)? {
        match field.split_once('=') {
            Some(("id", value)) => id = Some(value.to_owned()),
            Some(("src" | "source", value)) => file = Some(PathBuf::from(value)),
            Some(("env", value)) => variable = Some(value.to_owned()),
            Some(("type", "file" | "env")) => {}
            _ => return Err(FlagError::new(format!("a secret has no {field:?}"), fix)),
        }
    }
    let Some(id) = id.filter(|id| !id.is_empty()) else {
        return Err(FlagError::new("the secret has no id", fix));
    };
    match (file, variable) {
        (Some(file), None) => Ok((id, Secret::File(file))),
        (None, Some(name)) => Ok((id, Secret::Environment(name))),
        (None, None) if std::env::var_os(&id).is_some() => Ok((id.clone(), Secret::Environment(id))),
        (None, None) => Ok((id.clone(), Secret::File(PathBuf::from(id)))),
        (Some(_), Some(_)) => Err(FlagError::new("the secret has a file and a variable", fix)),
    }
}

/// How much of provenance; `None` with `--attest` is the SBOM, with `--provenance` nothing.
#[derive(Clone, Copy, Debug)]
struct Attested(Option<Provenance>);

fn provenance(text: &str) -> std::result::Result<Attested, FlagError> {
    match text {
        "true" | "mode=min" => Ok(Attested(Some(Provenance::Min))),
        "mode=max" => Ok(Attested(Some(Provenance::Max))),
        "false" => Ok(Attested(None)),
        _ => Err(FlagError::new(format!("{text:?} is no mode"), "write true, false, mode=min or mode=max")),
    }
}

fn attestation(text: &str) -> std::result::Result<Attested, FlagError> {
    match text {
        "type=sbom" => Ok(Attested(None)),
        "type=provenance" => Ok(Attested(Some(Provenance::Min))),
        _ => match text.strip_prefix("type=provenance,") {
            Some(mode @ ("mode=min" | "mode=max")) => provenance(mode),
            _ => Err(FlagError::new(
                format!("{text:?} is no attestation"),
                "write type=sbom, or type=provenance,mode=max",
            )),
        },
    }
}

/// `[manifest:]KEY=VALUE`
fn annotation(text: &str) -> std::result::Result<(String, String), FlagError> {
    let text = text.strip_prefix("manifest:").unwrap_or(text);
    match text.split_once('=') {
        Some((key, _)) if key.starts_with("index") || key.contains("descriptor:") => Err(FlagError::new(
            format!("{text:?} is not of the manifest"),
            "annotations are of the manifest: KEY=VALUE",
        )),
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(FlagError::new(format!("{text:?} has no ="), "write KEY=VALUE")),
    }
}

/// `type=local,src=FOLDER`, or the folder alone.
fn cache(text: &str) -> std::result::Result<PathBuf, FlagError> {
    let fix = "write type=local,src=FOLDER (or dest=FOLDER)";
    if !text.contains('=') {
        return Ok(PathBuf::from(text));
    }
    let mut folder = None;
    for field in csv::fields(text)? {
        match field.split_once('=') {
            Some(("type", "local")) | Some(("mode", "min" | "max")) => {}
            Some(("type", other)) => {
                return Err(FlagError::new(
                    format!("a cache of type {other} is not supported"),
                    "write it to a folder, type=local, and carry the folder",
                ));
            }
            Some(("src" | "dest", value)) => folder = Some(PathBuf::from(value)),
            _ => return Err(FlagError::new(format!("a cache has no {field:?}"), fix)),
        }
    }
    folder.ok_or_else(|| FlagError::new("the cache has no folder", fix))
}

/// A folder, `-`, or `type=…,dest=…`.
fn outputs(text: &str) -> std::result::Result<Output, FlagError> {
    if !text.contains('=') {
        return Ok(match text {
            "-" => Output::Tar(None),
            folder => Output::Local(PathBuf::from(folder)),
        });
    }
    let (mut kind, mut dest, mut pushes) = (String::new(), None, false);
    for field in csv::fields(text)? {
        match field.split_once('=') {
            Some(("type", value)) => kind = value.to_owned(),
            Some(("dest", "-")) => dest = None,
            Some(("dest", value)) => dest = Some(PathBuf::from(value)),
            Some(("push", value)) => pushes = value == "true",
            _ => {
                return Err(FlagError::new(
                    format!("an output has no {field:?}"),
                    "known are type, dest and push; names are given with --tag",
                ));
            }
        }
    }
    match (kind.as_str(), dest) {
        ("image", None) if pushes => Ok(Output::Registry),
        ("image", None) => Ok(Output::Image),
        ("registry", None) => Ok(Output::Registry),
        ("local", Some(folder)) => Ok(Output::Local(folder)),
        ("tar", dest) => Ok(Output::Tar(dest)),
        ("oci", dest) => Ok(Output::Oci(dest)),
        ("docker", dest) => Ok(Output::Docker(dest)),
        _ => Err(FlagError::new(
            format!("{text:?} is not an output"),
            "write a folder, or type=image, registry, local, tar, oci or docker, the last four with dest=PATH",
        )),
    }
}

/// `NAME=PATH`
fn named_context(text: &str) -> std::result::Result<(String, NamedContext), FlagError> {
    let (name, source) = text.split_once('=').ok_or_else(|| {
        FlagError::new(format!("{text:?} has no ="), "write NAME=PATH or NAME=docker-image://IMAGE")
    })?;
    let context = match source.strip_prefix("docker-image://") {
        Some(image) => NamedContext::Image(image.to_owned()),
        None if source.starts_with("oci-layout://") || source.starts_with("target:") => {
            return Err(FlagError::new(
                format!("{source:?} cannot be a context"),
                "load the layout with isle load, and write docker-image://NAME",
            ));
        }
        None => NamedContext::Files(place(source)),
    };
    Ok((name.to_ascii_lowercase(), context))
}
