"""Batches of the user's renderings of a face model, e.g. the Basel face model."""

from data_prep.basel_faces.builder import BaselFaces, FacesConfig, prepare

__all__ = ["BaselFaces", "FacesConfig", "prepare"]
