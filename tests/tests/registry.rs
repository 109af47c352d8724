//! Signed models: what is not what a key signed is refused before any of it is loaded.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use ed25519_dalek::SigningKey;
use glowplug::config::{Config, Draft};
use glowplug::hex::hex;
use glowplug::models::manifest::{Manifest, Untrusted, path as manifest_of};
use glowplug::models::opened::Opened;
use glowplug::models::packed;
use glowplug::models::registry::{Candidate, Registry, UnfitModel};
use glowplug_firmware_config::plan::{Limit, LimitSource};
use glowplug_model::gguf::{GgmlType, Gguf};
use glowplug_model::network::dims::Arch;
use glowplug_tests::{Kv, SplitMix, Tiny};
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const LIMIT: Limit = Limit {
    bytes: 1 << 30,
    from: LimitSource::Config,
};

struct World {
    folder: TempDir,
    config: Config,
    key: SigningKey,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = SigningKey::from_bytes(&[7; 32]);
        let keys = hex(key.verifying_key().as_bytes());
        let text = format!("[trust]\nkeys = ['{keys}']\n[memory]\nkv_pages = 16");
        let draft = Draft::from_toml(&text).unwrap();
        let config = draft.finish("n", folder.path().join("state")).unwrap();
        Self {
            folder,
            config,
            key,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn registry(&self, model: &Path) -> Registry {
        Registry::open(&self.config, model.to_owned()).unwrap()
    }

    fn check(&self, model: &Path) -> Result<Candidate, UnfitModel> {
        self.registry(model).check(model, &self.config, &LIMIT)
    }

    /// It has answered: what is remembered of it is written.
    fn answered(&self, candidate: &Candidate) {
        let weights = &candidate.weights;
        let mut registry = self.registry(weights.model.path());
        let note = registry.answered(weights, candidate.version, false);
        note.write().unwrap();
    }

    /// A model of its own bytes, signed.
    fn signed(&self, name: &str, tiny: &Tiny, version: u64) -> PathBuf {
        let path = self.path(name);
        write(&path, &tiny.bytes());
        sign(&path, version, &self.key);
        path
    }
}

/// A file that nobody else may write, whatever this machine's mask is.
fn write(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o644)).unwrap();
}

fn sign(model: &Path, version: u64, key: &SigningKey) {
    let text = Manifest::of(model, version).unwrap().sign(key).unwrap();
    fs::write(manifest_of(model), text).unwrap();
}

fn tiny() -> Tiny {
    Tiny::smallest(Arch::Llama)
}

#[test]
fn a_thousand_of_a_thousand_forgeries_are_refused() {
    let world = World::new();
    let model = world.signed("model.gguf", &tiny(), 5);
    let candidate = world.check(&model).unwrap();
    assert_eq!(candidate.version, Some(5));
    // it has answered: nothing older is served any more
    world.answered(&candidate);
    let (bytes, manifest) = (
        fs::read(&model).unwrap(),
        fs::read_to_string(manifest_of(&model)).unwrap(),
    );
    let forger = SigningKey::from_bytes(&[8; 32]);
    let mut random = SplitMix::new(1, "forgeries");
    let mut refused = 0;
    for n in 0..1000 {
        let forged = world.path("forged.gguf");
        write(&forged, &bytes);
        fs::write(manifest_of(&forged), &manifest).unwrap();
        match n % 5 {
            // a bit of the file
            0 => {
                let mut altered = bytes.clone();
                altered[random.below(bytes.len())] ^= 1 << (n / 5 % 8);
                fs::write(&forged, altered).unwrap();
            }
            // its end
            1 => fs::write(&forged, &bytes[..random.below(bytes.len())]).unwrap(),
            // no manifest, or half of it, or a bit of it
            2 => match n % 3 {
                0 => fs::remove_file(manifest_of(&forged)).unwrap(),
                1 => {
                    let end = random.below(manifest.len());
                    fs::write(manifest_of(&forged), &manifest[..end]).unwrap();
                }
                _ => {
                    let mut altered = manifest.clone().into_bytes();
                    altered[random.below(manifest.len())] ^= 1;
                    fs::write(manifest_of(&forged), altered).unwrap();
                }
            },
            // somebody else's
            3 => {
                Tiny { seed: n, ..tiny() }.write(&forged).unwrap();
                sign(&forged, 5 + n, &forger);
            }
            // an older one
            _ => {
                Tiny { seed: n, ..tiny() }.write(&forged).unwrap();
                sign(&forged, n % 5, &world.key);
            }
        }
        match world.check(&forged) {
            Err(_) => refused += 1,
            Ok(_) => eprintln!("{n} was taken"),
        }
    }
    assert_eq!(refused, 1000);
    assert!(world.check(&model).is_ok());
}

#[test]
fn each_refusal_says_why() {
    let world = World::new();
    let model = world.signed("model.gguf", &tiny(), 5);
    world.answered(&world.check(&model).unwrap());
    let why = |model: &Path| match world.check(model).unwrap_err() {
        UnfitModel::Untrusted(error) => error,
        other => panic!("{other}"),
    };
    let other = world.signed("other.gguf", &Tiny { seed: 2, ..tiny() }, 4);
    assert!(matches!(
        why(&other),
        Untrusted::Older {
            version: 4,
            least: 5
        }
    ));
    sign(&other, 5, &world.key);
    assert!(world.check(&other).is_ok());
    fs::copy(manifest_of(&model), manifest_of(&other)).unwrap();
    assert!(matches!(why(&other), Untrusted::Altered("content")));
    let qwen = world.path("qwen.gguf");
    write(&qwen, &Tiny::smallest(Arch::Qwen2).bytes());
    assert!(matches!(why(&qwen), Untrusted::Unsigned));
    fs::copy(manifest_of(&model), manifest_of(&qwen)).unwrap();
    assert!(matches!(why(&qwen), Untrusted::Altered("architecture")));
    sign(&qwen, 5, &SigningKey::from_bytes(&[8; 32]));
    assert!(matches!(why(&qwen), Untrusted::Signature));
}

/// What is mapped is the packed file: nobody signed that.
#[test]
fn a_packed_file_counts_only_if_it_was_made_here_of_the_signed_model() {
    let world = World::new();
    let model = world.signed("model.gguf", &tiny(), 1);
    let packed = packed::path(&model);
    // of just this model, and made by nobody knows whom
    let file = Opened::open(&model).unwrap();
    let forged = packed::write(&file, &file.sha256().unwrap(), &packed, false).unwrap();
    let mut candidate = world.check(&model).unwrap();
    assert!(candidate.weights.packed.is_none());
    // what lies there when the model has answered is not believed for that
    world.answered(&candidate);
    assert!(world.check(&model).unwrap().weights.packed.is_none());
    // it is made again
    candidate.weights.prepare().unwrap();
    let made = candidate.weights.packed.clone().unwrap();
    let inode = |path: &Path| fs::metadata(path).unwrap().ino();
    assert!(forged.unchanged().is_ok() && inode(&packed) == inode(made.path()));
    world.answered(&candidate);
    assert!(world.check(&model).unwrap().weights.packed.is_some());
    // somebody wrote it
    let (bytes, changed) = (fs::read(&packed).unwrap(), changed(&packed));
    // the kernel's clock may not have gone on since it was written first
    while self::changed(&packed) == changed {
        fs::write(&packed, &bytes).unwrap();
    }
    assert!(world.check(&model).unwrap().weights.packed.is_none());
}

/// One descriptor is checked, hashed, mapped and packed from: who may write the folder gains nothing by a rename, whenever it
/// comes.
#[test]
fn what_lies_under_the_name_after_the_check_is_not_what_is_used() {
    let world = World::new();
    let model = world.signed("model.gguf", &tiny(), 1);
    let theirs = Tiny { seed: 9, ..tiny() }.bytes();
    let tensor = |gguf: &Gguf| {
        gguf.data(gguf.tensor("token_embd.weight").unwrap())
            .to_vec()
    };
    let ours = tensor(&Gguf::open(&model).unwrap());
    let replace = |path: &Path| {
        write(&world.path("theirs"), &theirs);
        fs::rename(world.path("theirs"), path).unwrap();
    };
    // between the header and the hash
    let registry = world.registry(&model);
    let sighted = registry.sight(&model, &world.config, &LIMIT).unwrap();
    replace(&model);
    let mut candidate = registry.read(sighted, &world.config, &LIMIT).unwrap();
    // between the hash and the map: from what was hashed it is packed, too
    let gguf = candidate.weights.prepare().unwrap();
    assert_eq!(tensor(&candidate.weights.model.gguf().unwrap()), ours);
    let packed = packed::path(&model);
    assert_eq!(tensor(&gguf), tensor(&Gguf::open(&packed).unwrap()));
    // and between the packing and the next load
    replace(&packed);
    let gguf = candidate.weights.prepare().unwrap();
    assert_eq!(gguf.tensor("token_embd.weight").unwrap().bytes, ours.len());
    assert!(candidate.weights.packed.is_some());
    world.answered(&candidate);
    // the next start finds the other one, which nobody signed
    assert!(matches!(
        world.check(&model),
        Err(UnfitModel::Untrusted(Untrusted::Altered("content")))
    ));
}

/// Where others may write the file itself, no check of it means anything; without keys nothing was promised.
#[test]
fn a_signed_model_that_others_may_write_in_place_is_refused() {
    let mut world = World::new();
    let model = world.signed("model.gguf", &tiny(), 1);
    fs::set_permissions(&model, Permissions::from_mode(0o666)).unwrap();
    assert!(matches!(world.check(&model), Err(UnfitModel::Exposed)));
    // nor may they write what is said in its place
    let (sound, template) = (
        world.signed("sound.gguf", &tiny(), 1),
        world.path("t.jinja"),
    );
    fs::write(&template, "{{ messages[0].content }}").unwrap();
    world.config.model.template_file = Some(template.clone());
    for (mode, refused) in [(0o666, true), (0o644, false)] {
        fs::set_permissions(&template, Permissions::from_mode(mode)).unwrap();
        let checked = world.check(&sound);
        assert_eq!(matches!(checked, Err(UnfitModel::Exposed)), refused);
        assert_eq!(checked.is_ok(), !refused);
    }
    world.config.trust.clear();
    assert!(world.check(&model).is_ok());
}

/// A file that is changed in place after it was checked is not loaded: who asked is told, and the model before goes on.
#[test]
fn a_model_that_is_cut_after_the_check_is_not_loaded() {
    let world = World::new();
    for packed in [false, true] {
        let name = format!("{packed}.gguf");
        let model = world.signed(&name, &tiny(), 1);
        let mut candidate = world.check(&model).unwrap();
        if packed {
            candidate.weights.prepare().unwrap();
            let cut = fs::File::options()
                .write(true)
                .open(packed::path(&model))
                .unwrap();
            cut.set_len(100).unwrap();
            // it is made again, of the model
            candidate.weights.prepare().unwrap();
            candidate.weights.map().unwrap().touch(2).unwrap();
        }
        let cut = fs::File::options().write(true).open(&model).unwrap();
        cut.set_len(100).unwrap();
        let error = candidate.weights.prepare().unwrap_err().to_string();
        assert!(error.contains("changed in place"), "{error}");
    }
}

/// A requantised head is more than the model has: the plan is of what is mapped.
#[test]
fn the_plan_counts_a_requantized_head() {
    let mut world = World::new();
    // without keys: who signs models packs them by the daemon alone
    world.config.trust.clear();
    let mut tiny = tiny();
    // which is its head too
    tiny.types.token_embd = GgmlType::Q8_0;
    let model = world.signed("model.gguf", &tiny, 1);
    let packed = packed::path(&model);
    let weights = |candidate: &Candidate| {
        let mut lines = candidate.plan.memory.lines();
        lines.find(|(line, _)| *line == "weights").unwrap().1
    };
    let size = fs::metadata(&model).unwrap().len();
    let gguf = Gguf::open(&model).unwrap();
    let in_head: u64 = gguf
        .tensor("token_embd.weight")
        .unwrap()
        .dims
        .iter()
        .product();
    // Q4_0: 18 bytes a block of 32
    for (requantized, added) in [(false, 0), (true, in_head / 32 * 18)] {
        let before = world.check(&model).unwrap();
        assert_eq!(weights(&before), size);
        let of = &before.weights;
        packed::write(&of.model, &of.sha256, &packed, requantized).unwrap();
        let after = world.check(&model).unwrap();
        assert_eq!(weights(&after), size + added);
        fs::remove_file(&packed).unwrap();
    }
}

fn changed(path: &Path) -> (i64, i64) {
    let of = fs::metadata(path).unwrap();
    (of.ctime(), of.ctime_nsec())
}

#[test]
fn a_model_without_a_template_is_served_with_one_that_is_configured() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let [model, other, template] = ["model.gguf", "other.gguf", "t.jinja"].map(path);
    let mut writer = tiny().writer();
    writer
        .keys
        .retain(|(key, _)| key != "tokenizer.chat_template");
    fs::write(&model, writer.build()).unwrap();
    fs::write(&other, writer.build()).unwrap();
    let check = |file: &Path, text: &str| {
        let draft = Draft::from_toml(&format!("[memory]\nkv_pages = 16\n{text}")).unwrap();
        let config = draft.finish("n", path("state")).unwrap();
        let registry = Registry::open(&config, model.clone()).unwrap();
        registry.check(file, &config, &LIMIT)
    };
    let configured = format!("[model]\ntemplate_file = '{}'", template.display());
    let refused = |file: &Path, text: &str| match check(file, text).unwrap_err() {
        UnfitModel::Template(why) => UnfitModel::Template(why).to_string(),
        UnfitModel::Io(why) => why.to_string(),
        other => panic!("{other}"),
    };
    // refused before anything is loaded, with the way out
    assert!(refused(&model, "").contains("`model.template_file` can name"));
    assert!(refused(&model, &configured).contains("t.jinja"));
    fs::write(&template, "{{ messages[0].content }}<think>").unwrap();
    assert!(check(&model, &configured).unwrap().template.thinks());
    // it is the configured model's, and no other's
    assert!(refused(&other, &configured).contains("`model.template_file` can name"));
    // bounded as the file's own
    fs::write(&template, "x".repeat((64 << 10) + 1)).unwrap();
    assert!(refused(&model, &configured).contains("longer than 65536 bytes"));
    fs::write(&template, "{% if %}").unwrap();
    assert!(refused(&model, &configured).contains("the chat template: "));
    // in place of one that there is
    writer.set(
        "tokenizer.chat_template",
        Kv::Str("{{ messages[0].content }}".to_owned()),
    );
    fs::write(&model, writer.build()).unwrap();
    fs::write(&template, "<think>").unwrap();
    assert!(check(&model, &configured).unwrap().template.thinks());
    assert!(check(&other, "").is_err());
}
