//! What a build ends with: an image, an archive, a folder.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File};
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::{Arc, PoisonError};

use isle_archive::{Archive, Style};
use isle_engine::EngineError;
use isle_image::{Assembly, Digest, Image, LayerRef, SaveFormat, Workspace};
use isle_registry::{Client, Config};
use serde_json::json;

use crate::attest::{Statement, Story};
use crate::error::BuildError;
use crate::layout::{self, Additions};
use crate::place::below;
use crate::request::{Built, Output, Provenance};
use crate::solve::{Build, Stage, Worker};

impl Build<'_> {
    /// Writes what was asked for.
    pub(crate) fn export(&self, worker: &Worker, stage: &Stage) -> Result<Built, BuildError> {
        let image_only = [Output::Image];
        let outputs: &[Output] = match self.request.outputs.is_empty() {
            true => &image_only,
            false => &self.request.outputs,
        };
        let keeps = outputs
            .iter()
            .any(|output| matches!(output, Output::Image | Output::Registry));
        let needs_image = outputs
            .iter()
            .any(|output| !matches!(output, Output::Local(_) | Output::Tar(_)));
        let attests = self.request.provenance.is_some() || self.request.sbom;
        let is_kept = |output: &Output| matches!(output, Output::Oci(_) | Output::Local(_));
        if attests && !outputs.iter().all(is_kept) {
            return Err(BuildError::request(
                "the store of images, registries and plain archives keep no attestations here",
                "write the image with --output type=oci,dest=FILE, or its files with --output FOLDER",
            ));
        }
        let is_archive = |output: &Output| matches!(output, Output::Oci(_));
        if !self.request.annotations.is_empty() && !outputs.iter().all(is_archive) {
            return Err(BuildError::request(
                "annotations are of the manifest in an archive",
                "write the image with --output type=oci,dest=FILE; --label is for the image itself",
            ));
        }
        let mut built = Built::default();
        let mut image = None;
        if needs_image {
            let name = match keeps {
                true => "exporting to image",
                false => "making the image",
            };
            let made = self.told(name, |_| {
                let (made, was_there) = self.image_of(worker, stage, keeps)?;
                Ok((made, was_there))
            })?;
            built.image_id = Some(made.id.to_string());
            built.manifest = Some(made.manifest.to_string());
            image = Some(made);
        }
        for output in outputs {
            self.check()?;
            match (output, &image) {
                (Output::Image, _) => {}
                (Output::Registry, _) => self.push(worker)?,
                (Output::Local(folder), _) => {
                    let name = format!("exporting to {}", folder.display());
                    self.told(&name, |_| {
                        self.local(worker, stage, folder)?;
                        for statement in self.statements(worker, stage)? {
                            let path = folder.join(statement.file);
                            let text = statement.about(&self.subject(), None).to_string();
                            std::fs::write(&path, text).map_err(BuildError::io("write", &path))?;
                        }
                        Ok(((), false))
                    })?;
                }
                (Output::Tar(path), _) => {
                    let written = |_| {
                        let mut file = open(path.as_deref())?;
                        self.tar(worker, stage, &mut *file)?;
                        Ok(((), false))
                    };
                    self.told("exporting the files as an archive", written)?;
                }
                (Output::Oci(path), Some(image)) => {
                    self.save(worker, stage, image, path.as_deref(), SaveFormat::Oci)?
                }
                (Output::Docker(path), Some(image)) => {
                    self.save(worker, stage, image, path.as_deref(), SaveFormat::Docker)?;
                }
                (Output::Oci(_) | Output::Docker(_), None) => {}
            }
        }
        built.metadata = self.metadata(&built);
        Ok(built)
    }

    /// Makes the image, unless it is there.
    fn image_of(
        &self,
        worker: &Worker,
        stage: &Stage,
        keeps: bool,
    ) -> Result<(Image, bool), BuildError> {
        let store = worker.images();
        let layers: Vec<LayerRef> = match &stage.image {
            Some(image) => store.layer_refs(image)?,
            None => Vec::new(),
        };
        let mut config = stage.config.clone();
        for (key, value) in &self.request.labels {
            config.set_label(key, value);
        }
        let document = config.document(stage.created);
        let mut whole = document.clone();
        let diff_ids: Vec<&Digest> = layers.iter().map(|layer| &layer.diff_id).collect();
        whole["rootfs"] = json!({ "type": "layers", "diff_ids": diff_ids });
        let id = Digest::of(&serde_json::to_vec(&whole).unwrap_or_default());
        let names: &[_] = if keeps { &self.request.tags } else { &[] };
        if store.is_intermediate(&id)? == Some(!keeps) {
            let image = store.find(id.as_str()).map_err(EngineError::from)?;
            store.name_image(&image, names)?;
            return Ok((image, true));
        }
        let assembly = Assembly {
            layers: &layers,
            document,
            names,
            is_intermediate: !keeps,
        };
        let image = store.assemble(assembly, None)?;
        Ok((image, false))
    }

    fn push(&self, worker: &Worker) -> Result<(), BuildError> {
        if self.request.tags.is_empty() {
            return Err(BuildError::request(
                "an image without a name cannot be pushed",
                "name it with --tag",
            ));
        }
        let config =
            Config::of_host().map_err(|error| BuildError::request(error.to_string(), ""))?;
        let client = Client::new(config);
        for tag in &self.request.tags {
            self.told(&format!("pushing {}", tag.familiar()), |_| {
                let silent: Arc<dyn isle_image::Progress> = Arc::new(isle_image::Silent);
                worker.images().push(&client, tag, &silent)?;
                Ok(((), false))
            })?;
        }
        Ok(())
    }

    fn save(
        &self,
        worker: &Worker,
        stage: &Stage,
        image: &Image,
        path: Option<&Path>,
        format: SaveFormat,
    ) -> Result<(), BuildError> {
        self.told("exporting the image as an archive", |_| {
            let mut file = open(path)?;
            let silent: Arc<dyn isle_image::Progress> = Arc::new(isle_image::Silent);
            let keeps = !image.repo_tags.is_empty();
            let names: Vec<String> = match keeps && !self.request.tags.is_empty() {
                true => self.request.tags.iter().map(|tag| tag.familiar()).collect(),
                false => vec![image.id.to_string()],
            };
            let statements = self.statements(worker, stage)?;
            if statements.is_empty() && self.request.annotations.is_empty() {
                worker.images().save(&names, format, &mut *file, &silent)?;
            } else {
                let workspace = worker.images().workspace()?;
                let plain = workspace.path().join("layout");
                let fail = || BuildError::io("write", &plain);
                let mut layout = File::options()
                    .read(true)
                    .write(true)
                    .create_new(true)
                    .open(&plain)
                    .map_err(fail())?;
                worker.images().save(&names, format, &mut layout, &silent)?;
                layout.rewind().map_err(fail())?;
                let additions = Additions {
                    annotations: &self.request.annotations,
                    statements: &statements,
                    name: &self.subject(),
                    platform: &image.platform,
                };
                layout::add(layout, &mut *file, &additions).map_err(fail())?;
            }
            file.flush()
                .map_err(BuildError::io("write", "the archive"))?;
            Ok(((), false))
        })
    }

    /// What attestations call the image.
    fn subject(&self) -> String {
        let tag = self.request.tags.first();
        tag.map_or_else(|| "_".to_owned(), ToString::to_string)
    }

    /// The attestations that were asked for.
    fn statements(&self, worker: &Worker, stage: &Stage) -> Result<Vec<Statement>, BuildError> {
        let mut statements = Vec::new();
        if let Some(how) = self.request.provenance {
            let parameters = (how == Provenance::Max).then(|| {
                json!({
                    "build-args": self.request.args,
                    "labels": self.request.labels,
                    "source": self.text,
                })
            });
            let bases = self
                .bases
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone();
            statements.push(Statement::provenance(&Story {
                dockerfile: self.file_name.clone(),
                parameters,
                target: self.request.target.clone(),
                platform: self.plan.stages[stage.index].platform.to_string(),
                bases,
                begun: self.epoch.unwrap_or(self.begun),
                ended: self.now(),
            }));
        }
        if self.request.sbom {
            let view = self.view(worker, stage)?;
            let below = below(view.as_ref().map(|(view, _)| view));
            statements.push(Statement::sbom(&self.subject(), below, self.now()));
        }
        Ok(statements)
    }

    fn view(
        &self,
        worker: &Worker,
        stage: &Stage,
    ) -> Result<Option<(OwnedFd, Workspace)>, BuildError> {
        let Some(id) = &stage.image else {
            return Ok(None);
        };
        let image = worker
            .images()
            .find(id.as_str())
            .map_err(EngineError::from)?;
        let workspace = worker.images().workspace()?;
        Ok(Some((worker.images().view(&image, &workspace)?, workspace)))
    }

    fn tar(
        &self,
        worker: &Worker,
        stage: &Stage,
        writer: &mut dyn Write,
    ) -> Result<(), BuildError> {
        let view = self.view(worker, stage)?;
        let mut archive = Archive::new(writer, Style::default());
        if let Some((view, _workspace)) = &view {
            let folder = isle_archive::readable(view.as_fd());
            let folder =
                folder.map_err(|errno| BuildError::io("open", "the files")(errno.into()))?;
            archive
                .folder_content(folder.as_fd())
                .map_err(BuildError::io("write", "the archive"))?;
        }
        archive
            .finish()
            .map_err(BuildError::io("write", "the archive"))
    }

    fn local(&self, worker: &Worker, stage: &Stage, folder: &Path) -> Result<(), BuildError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(folder)
            .map_err(BuildError::io("make", folder))?;
        let (mut reader, mut writer) = io::pipe().map_err(BuildError::io("make", "a pipe"))?;
        std::thread::scope(|scope| {
            let paths = self.paths.clone();
            let writing = scope.spawn(move || {
                let worker = Worker::open(&paths)?;
                self.tar(&worker, stage, &mut writer)
            });
            let unpacked = crate::contexts::unpack_to(&mut reader, folder, folder, false);
            drop(reader);
            let written = writing.join().expect("the writer does not panic");
            unpacked?;
            let _ = worker;
            written
        })
    }

    fn metadata(&self, built: &Built) -> BTreeMap<String, serde_json::Value> {
        let mut metadata = BTreeMap::new();
        if let Some(id) = &built.image_id {
            metadata.insert("containerimage.config.digest".to_owned(), json!(id));
        }
        if let Some(manifest) = &built.manifest {
            metadata.insert("containerimage.digest".to_owned(), json!(manifest));
        }
        if !self.request.tags.is_empty() {
            let names: Vec<String> = self.request.tags.iter().map(ToString::to_string).collect();
            metadata.insert("image.name".to_owned(), json!(names.join(",")));
        }
        metadata
    }
}

/// The file, or standard output.
fn open(path: Option<&Path>) -> Result<Box<dyn Write>, BuildError> {
    match path {
        None => Ok(Box::new(io::stdout().lock())),
        Some(path) => Ok(Box::new(
            File::create(path).map_err(BuildError::io("write", path))?,
        )),
    }
}
