"""Renderings of a face model of the user's, e.g. the Basel face model, in batches."""

from data_prep.basel_faces.builder import BaselFaces, FacesConfig, prepare

__all__ = ["BaselFaces", "FacesConfig", "prepare"]
