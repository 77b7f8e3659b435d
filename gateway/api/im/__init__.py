"""The door of IM users over HTTP: uploads, files, signed links."""
