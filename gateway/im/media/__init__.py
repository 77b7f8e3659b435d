"""Pictures, clips and files (D6, D7): uploads, what may be kept, thumbnails, signed links."""
