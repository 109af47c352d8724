//! Writes GGUF files, sound ones and broken ones: every field can be set to what no honest writer would write.

/// A metadata value of a type that GGUF knows, or of none.
#[derive(Debug, Clone)]
pub enum Kv {
    U32(u32),
    I32(i32),
    U64(u64),
    F32(f32),
    Bool(bool),
    Str(String),
    Strs(Vec<String>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
    /// any type id and any bytes behind it
    Raw(u32, Vec<u8>),
}

impl From<&str> for Kv {
    fn from(text: &str) -> Self {
        Self::Str(text.to_owned())
    }
}

impl Kv {
    /// An array with any element type id, any count and any body.
    pub fn array(element: u32, count: u64, body: &[u8]) -> Self {
        Self::Raw(
            9,
            [&element.to_le_bytes()[..], &count.to_le_bytes(), body].concat(),
        )
    }

    /// Type id and bytes, as they stand in the file.
    fn encode(&self) -> (u32, Vec<u8>) {
        match self {
            Self::U32(v) => (4, v.to_le_bytes().to_vec()),
            Self::I32(v) => (5, v.to_le_bytes().to_vec()),
            Self::F32(v) => (6, v.to_le_bytes().to_vec()),
            Self::Bool(v) => (7, vec![u8::from(*v)]),
            Self::Str(v) => (8, string(v)),
            Self::U64(v) => (10, v.to_le_bytes().to_vec()),
            Self::Strs(v) => {
                let body: Vec<u8> = v.iter().flat_map(|s| string(s)).collect();
                Self::array(8, v.len() as u64, &body).encode()
            }
            Self::I32s(v) => {
                let body: Vec<u8> = v.iter().flat_map(|v| v.to_le_bytes()).collect();
                Self::array(5, v.len() as u64, &body).encode()
            }
            Self::F32s(v) => {
                let body: Vec<u8> = v.iter().flat_map(|v| v.to_le_bytes()).collect();
                Self::array(6, v.len() as u64, &body).encode()
            }
            Self::Raw(ty, bytes) => (*ty, bytes.clone()),
        }
    }
}

/// A tensor of the file that is written.
#[derive(Debug, Clone)]
pub struct Tensor {
    pub name: String,
    /// as in the file: the innermost first
    pub dims: Vec<u64>,
    /// the type id that the file will claim
    pub ty: u32,
    /// start in the data; `None` is the right one
    pub offset: Option<u64>,
    /// its bytes, as many as there really shall be
    pub data: Vec<u8>,
}

/// A file before it is written. The fields may be changed at will before [`GgufWriter::build`].
#[derive(Debug, Clone)]
pub struct GgufWriter {
    /// 3 in honest files
    pub version: u32,
    /// number of tensors to claim; `None` is the right one
    pub n_tensors: Option<u64>,
    /// number of keys to claim; `None` is the right one
    pub n_keys: Option<u64>,
    /// start of the data and of every tensor in it; write the key `general.alignment` too, if it is not 32
    pub alignment: usize,
    /// metadata in file order
    pub keys: Vec<(String, Kv)>,
    /// tensors in file order
    pub tensors: Vec<Tensor>,
}

impl Default for GgufWriter {
    fn default() -> Self {
        Self {
            version: 3,
            n_tensors: None,
            n_keys: None,
            alignment: 32,
            keys: Vec::new(),
            tensors: Vec::new(),
        }
    }
}

impl GgufWriter {
    /// Sets a key where it stands, or adds it as the last.
    pub fn set(&mut self, key: &str, value: impl Into<Kv>) {
        let value = value.into();
        match self.keys.iter_mut().find(|(k, _)| k == key) {
            Some(slot) => slot.1 = value,
            None => self.keys.push((key.to_owned(), value)),
        }
    }

    /// Takes a key out of the file.
    pub fn remove(&mut self, key: &str) {
        self.keys.retain(|(k, _)| k != key);
    }

    /// Adds a tensor as the last.
    pub fn add(&mut self, name: &str, dims: &[u64], ty: u32, data: Vec<u8>) {
        self.tensors.push(Tensor {
            name: name.to_owned(),
            dims: dims.to_vec(),
            ty,
            offset: None,
            data,
        });
    }

    /// A tensor of this name, to change it.
    ///
    /// # Panics
    /// If there is none.
    pub fn tensor(&mut self, name: &str) -> &mut Tensor {
        let Some(tensor) = self.tensors.iter_mut().find(|t| t.name == name) else {
            panic!("no tensor {name} in this file");
        };
        tensor
    }

    /// Takes a tensor out of the file.
    pub fn remove_tensor(&mut self, name: &str) {
        self.tensors.retain(|t| t.name != name);
    }

    /// Everything before the data, without the padding behind it.
    pub fn head(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(
            self.n_tensors
                .unwrap_or(self.tensors.len() as u64)
                .to_le_bytes(),
        );
        out.extend(self.n_keys.unwrap_or(self.keys.len() as u64).to_le_bytes());
        for (key, value) in &self.keys {
            let (ty, bytes) = value.encode();
            out.extend(string(key));
            out.extend(ty.to_le_bytes());
            out.extend(bytes);
        }
        let mut next = 0;
        for tensor in &self.tensors {
            out.extend(string(&tensor.name));
            out.extend((tensor.dims.len() as u32).to_le_bytes());
            out.extend(tensor.dims.iter().flat_map(|d| d.to_le_bytes()));
            out.extend(tensor.ty.to_le_bytes());
            out.extend(tensor.offset.unwrap_or(next).to_le_bytes());
            next += tensor.data.len().next_multiple_of(self.alignment) as u64;
        }
        out
    }

    /// The whole file. The last tensor is not padded.
    pub fn build(&self) -> Vec<u8> {
        let mut out = self.head();
        for tensor in &self.tensors {
            out.resize(out.len().next_multiple_of(self.alignment), 0);
            out.extend(&tensor.data);
        }
        out
    }
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}
