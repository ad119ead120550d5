//! Directories on real images, through the real layers.
