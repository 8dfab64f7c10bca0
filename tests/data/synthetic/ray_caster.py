"""Round cones as meshes of revolution, for a ray caster that shares no line with the library."""

import numpy as np
import trimesh

SECTIONS = 256


def mesh_of_cone(a, b, radius_a, radius_b):
    """The hull of two spheres; its edges are within 0.002 mm of the surface for a hand's sizes."""
    axis = b - a
    length = np.linalg.norm(axis)
    lean = (radius_a - radius_b) / length
    ends = [(0.0, radius_a, np.pi), (length, radius_b, np.pi)]
    if abs(lean) >= 1:  # one sphere holds the other
        ends = [ends[0] if lean > 0 else ends[1]]
        arcs = [(*ends[0][:2], np.pi, 0.0)]
    else:
        angle = np.arccos(lean)
        arcs = [(0.0, radius_a, np.pi, angle), (length, radius_b, angle, 0.0)]
    profile = []
    for middle, radius, start, end in arcs:
        turn = np.linspace(start, end, SECTIONS // 2)
        profile.append(np.stack([radius * np.sin(turn), middle + radius * np.cos(turn)], axis=1))
    mesh = trimesh.creation.revolve(np.concatenate(profile), sections=SECTIONS)
    to = trimesh.geometry.align_vectors([0, 0, 1], axis / length)
    to[:3, 3] = a
    mesh.apply_transform(to)
    return np.asarray(mesh.vertices), np.asarray(mesh.faces)


def meshes_of_cones(cones):
    """All cones in one."""
    vertices, faces, count = [], [], 0
    for cone in zip(*(np.asarray(leaf, float) for leaf in cones), strict=True):
        own, own_faces = mesh_of_cone(*cone)
        vertices.append(own)
        faces.append(own_faces + count)
        count += len(own)
    return np.concatenate(vertices), np.concatenate(faces)
